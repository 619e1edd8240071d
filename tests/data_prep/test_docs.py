"""docs/datasets.md: its table is that of the recipes, its worked example runs."""

import json
import re
from pathlib import Path

from release import hounsfield, ids, nifti

from data_prep.__main__ import main
from data_prep.catalogue import Recipe, load_recipe, recipe_names

DOCS = Path(__file__).resolve().parents[2] / "docs/datasets.md"


def row(recipe: Recipe) -> str:
    modalities = ", ".join(recipe.modalities) or "by file"
    cells = (f"`{recipe.name}`", modalities, recipe.task, recipe.layout_from, recipe.licence)
    return f"| {' | '.join(cells)} |"


def test_the_table_is_that_of_the_recipes() -> None:
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    expected = [row(load_recipe(name)) for name in recipe_names()]
    assert rows == expected, "write this table:\n" + "\n".join(expected)


def test_the_worked_example(tmp_path: Path) -> None:
    (recipe,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "liver.yaml").write_text(recipe)
    for patient, date in (("P017", "2021-03-04"), ("P017", "2021-09-01"), ("P018", "2020-01-01")):
        folder = tmp_path / "export" / patient / date
        labels = ids(1, 2, 3)
        labels[3, 30:, 30:] = 3  # four voxels: too few
        nifti(folder / "portal.nii.gz", hounsfield())
        nifti(folder / "portal_labels.nii.gz", labels)
    command = [str(tmp_path / name) for name in ("liver.yaml", "export", "out")]
    assert main([*command, "--workers", "1", "--no_sheets"]) == 0
    written = json.loads((tmp_path / "out/manifest.json").read_text())["written"]
    assert [entry["name"] for entry in written] == [
        "P017_2021-03-04_portal", "P017_2021-09-01_portal", "P018_2020-01-01_portal"
    ]  # fmt: skip
    assert [entry["group"] for entry in written] == ["P017", "P017", "P018"]
    labels_of = {(label["id"], label["name"]) for label in written[0]["labels"]}
    assert labels_of == {(1, "liver"), (769, "tumour")}
    assert {drop["rule"] for drop in written[0]["dropped"]} == {"drop_labels", "min_voxels_3d"}


def test_the_commands_name_real_recipes() -> None:
    named = re.findall(r"python -m data_prep (?:--show )?(\w+)(?= |\n)", DOCS.read_text())
    assert set(named) - {"NAME", "liver"} <= set(recipe_names())
