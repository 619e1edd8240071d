"""The command around the recipes: listing, one's own recipe, mistakes, interruptions."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import release_pictures
import release_volumes
from recipe_commands import error_of, prepare, run
from release import gray, hounsfield, ids, nifti, picture

from data_prep.__main__ import main
from data_prep.catalogue import COLLECTIONS, RECIPES, load_recipe, recipe_names

ROOT = Path(__file__).resolve().parents[2]


def test_list_names_every_data_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert run("--list") == 0
    rows = {row.split()[1]: row for row in capsys.readouterr().out.splitlines() if " │ " in row}
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.task
        assert recipe.task in rows[name]
        assert recipe.licence in rows[name]
        assert recipe.layout_from in rows[name]
        assert all(modality in rows[name] for modality in recipe.modalities)
    assert {"flare22", "cvpr24", "msd", "brats", "camus", "sun_seg", "sample"} <= rows.keys()


@pytest.mark.parametrize("name", [*(path.stem for path in RECIPES.glob("*.yaml")), "sample"])
def test_show_says_what_is_expected(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--show", name) == 0
    shown = capsys.readouterr().out
    recipe = load_recipe(name)
    assert recipe.title in shown
    assert recipe.licence in shown
    assert recipe.layout
    assert all(path in shown and what in shown for path, what in recipe.layout.items())


def test_layouts_that_were_seen_say_so() -> None:
    seen = {name for name in recipe_names() if load_recipe(name).layout_from == "files"}
    assert seen == {"drive", "dsb2018", "isic", "kvasir_seg", "medsam2_recist", "sample"}


def test_names_of_recipes_and_collections_differ() -> None:
    stems = [path.stem for folder in (RECIPES, COLLECTIONS) for path in folder.glob("*.yaml")]
    assert len(set(stems)) == len(stems)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert "NAME SOURCE OUT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("flare2", "a", "b"), "unknown data set flare2: did you mean flare22?"),
        (("zzz", "a", "b"), "see python -m data_prep --list"),
        (("--show",), "--show takes the name of one data set"),
        (("--show", "drivee"), "did you mean drive?"),
        (("drive", "nowhere", "out"), "nowhere: no such folder; give the folder of the data set"),
        (("drive", ".", "out", "--val_shar", "0.1"), "did you mean --val_share?"),
        (("drive", "."), "out"),
    ],
)
def test_mistakes_on_the_command_line(
    args: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in error_of(capsys, *args)


@pytest.mark.parametrize("name", [path.stem for path in RECIPES.glob("*.yaml")])
def test_a_wrong_folder(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday/readme.txt").write_text("beach")
    text = error_of(capsys, name, tmp_path / "holiday", tmp_path / "out")
    assert "holiday" in text
    assert next(iter(load_recipe(name).layout)).split("/")[-1] in text or "dataset.json" in text
    assert not list(tmp_path.glob("out/**/*.npz"))
    assert not list(tmp_path.glob(".out*"))


class TestOwnRecipe:
    def test_works_by_its_path(self, tmp_path: Path) -> None:
        recipe = tmp_path / "ours.yaml"
        recipe.write_text(
            "modality: CT\n"
            "image_glob: '{patient}/{date}_ct.nii.gz'\n"
            "label_glob: '{patient}/{date}_organs.nii.gz'\n"
            "label_rules: {names: {1: liver}}\n"
        )
        for patient in ("p1", "p2"):
            for date in ("may", "june"):
                folder = tmp_path / "source" / patient
                nifti(folder / f"{date}_ct.nii.gz", hounsfield())
                nifti(folder / f"{date}_organs.nii.gz", ids(1))
        assert prepare(recipe, tmp_path / "source", tmp_path / "out") == 0
        manifest = json.loads((tmp_path / "out/manifest.json").read_text())
        names = [entry["name"] for entry in manifest["written"]]
        assert names == ["p1_june", "p1_may", "p2_june", "p2_may"]
        assert len({entry["group"] for entry in manifest["written"]}) == 2
        assert manifest["written"][0]["labels"][0]["name"] == "liver"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("image_glub: '*.png'", "unknown key 'image_glub': did you mean image_glob?"),
            ("inputs: [{label_glab: '*.png'}]", "unknown key 'label_glab': did you mean"),
            ("inputs: {image_glob: a}", "inputs must be a list"),
            ("title: nothing else", "says nothing about images"),
            ("- a\n- b", "maps names to values"),
            ("a: [", "cannot be read"),
            ("image_glob: a\nlayout_from: hearsay", "layout_from be one of"),
            ("image_glob: a\nworkers: 3", "unknown key 'workers'"),
            ("datasets: {a: {foldr: b}}", "unknown key 'foldr': did you mean folder?"),
            ("datasets: {a: {recipe: drve}}", "did you mean drive?"),
            ("datasets: [a]", "datasets must map"),
            ("datasets: {a: b}", "datasets must map"),
            ("image_glob: a\nmodality: XR", "modality"),
            ("image_glob: a\nval_share: much", "val_share"),
            ("code: nowhere", "nowhere"),
            ("code: ..medsam2_ft", "no module of data_prep"),
            ("code: 3", "no module of data_prep"),
        ],
    )
    def test_mistakes(
        self, text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "ours.yaml").write_text(text)
        (tmp_path / "source").mkdir()
        picture(tmp_path / "source/a.png", gray())
        message = error_of(capsys, tmp_path / "ours.yaml", tmp_path / "source", tmp_path / "out")
        assert "ours.yaml" in message
        assert expected in message

    def test_is_missing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = error_of(capsys, tmp_path / "no.yaml", tmp_path, tmp_path / "out")
        assert "no.yaml: the recipe cannot be read" in message


def test_options_win_over_the_recipe(tmp_path: Path) -> None:
    release_volumes.flare22(tmp_path / "source")
    command = ("flare22", tmp_path / "source", tmp_path / "out")
    assert prepare(*command, "--val_share", 0.4, "--test_share", 0.2) == 0
    splits = json.loads((tmp_path / "out/splits.json").read_text())
    assert [len(splits[split]) for split in ("train", "val", "test")] == [2, 2, 1]


def test_an_input_that_a_release_lacks_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release_pictures.refuge(tmp_path / "source")
    for folder in ("REFUGE-Test400", "REFUGE-Test-GT"):
        for path in (tmp_path / "source" / folder).rglob("*.*"):
            path.unlink()
    assert prepare("refuge", tmp_path / "source", tmp_path / "out") == 0
    assert "no image matches (1): **/*Test400/{case:T*}.jpg" in capsys.readouterr().out
    assert len(list(tmp_path.glob("out/*/*.npz"))) == 3


def test_bad_files_do_not_keep_others_from_being_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = release_volumes.amos(tmp_path / "source")
    broken = tmp_path / "source/imagesTr/amos_0001.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    command = ("amos", tmp_path / "source", tmp_path / "out")
    assert "amos_0001.nii.gz" in error_of(capsys, *command)
    written = {path.stem for path in tmp_path.glob("out/*/*.npz")}
    assert written == set(release.cases) - {"amos_0001"}
    nifti(broken, hounsfield())
    assert prepare(*command) == 0
    assert {path.stem for path in tmp_path.glob("out/*/*.npz")} == set(release.cases)


def test_overwrite_builds_all_inputs_again(tmp_path: Path) -> None:
    release = release_volumes.amos(tmp_path / "source")
    command = ("amos", tmp_path / "source", tmp_path / "out")
    assert prepare(*command) == 0
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/*.npz")}
    assert prepare(*command, "--overwrite") == 0
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/*.npz")}
    assert before.keys() == after.keys() == {f"{name}.npz" for name in release.cases}
    assert all(after[name] > before[name] for name in before)


def test_interrupted_it_goes_on(tmp_path: Path) -> None:
    for number in range(160):
        nifti(
            tmp_path / f"source/case_{number:05d}/imaging.nii.gz", hounsfield(number, (9, 90, 90))
        )
        nifti(tmp_path / f"source/case_{number:05d}/segmentation.nii.gz", ids(1, shape=(9, 90, 90)))
    command = ["kits", str(tmp_path / "source"), str(tmp_path / "out"), "--workers", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "data_prep", *command], cwd=ROOT, stderr=subprocess.PIPE
    ) as process:
        journal = tmp_path / "out/.prepare/journal.jsonl"
        while process.poll() is None and not (
            journal.is_file() and journal.read_text().count("\n") > 4
        ):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read().decode()
    assert process.returncode == 130
    # A case whose file is there and whose record is not yet was under way: it is built again.
    recorded = [json.loads(line)["name"] for line in journal.read_text().splitlines() if line]
    staged = {path.stem: path for path in journal.parent.rglob("[!.]*.npz")}
    finished = {f"{name}.npz": staged[name].stat().st_mtime_ns for name in recorded}
    assert 0 < len(finished) < 160
    assert len(staged) - len(finished) <= 1
    assert not (tmp_path / ".out.work").exists()
    assert main(command) == 0
    cases = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/*.npz")}
    assert len(cases) == 160
    assert finished.items() <= cases.items()
