import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from synthetic import write_npz

from medsam2_ft.__main__ import main
from medsam2_ft.inspection.folder import find_case_files, measure_files
from medsam2_ft.inspection.problems import Problem, find_problems
from medsam2_ft.inspection.summary import summarize_labels, summarize_modalities

NAMES = np.array('{"1": "liver", "2": "spleen"}')
FRAME = np.zeros((4, 24, 24), np.uint8)


def with_label(voxels: tuple[slice, slice, slice], label: int = 1) -> np.ndarray:
    gts = FRAME.copy()
    gts[voxels] = label
    return gts


INSIDE = with_label((slice(1, 3), slice(4, 9), slice(4, 9)))


def problems_of(folder: Path) -> list[Problem]:
    return find_problems(*measure_files(find_case_files(folder), 2, lambda: None), min_voxels=10)


def kinds_of(folder: Path) -> set[str]:
    return {problem.kind for problem in problems_of(folder)}


def write(path: Path, seed: int = 0, **options: Any) -> Path:
    """A case without problems."""
    given = {"gts": INSIDE, "modality": "CT", "labels": (1,), **options}
    return write_npz(path, (4, 24, 24), seed=seed, **given)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four cases without problems, two of them with names."""
    for number, split in enumerate(("train", "train", "val", "test")):
        names = NAMES if number < 2 else None
        gts = INSIDE + with_label((slice(1, 3), slice(12, 18), slice(12, 18)), 2)
        write(tmp_path / "set" / split / f"c{number}.npz", number, label_names=names, gts=gts)
    return tmp_path / "set"


def test_a_clean_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert problems_of(folder) == []
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "4 cases" in shown
    assert "2 train, 1 val, 1 test" in shown
    assert "no problems found" in shown


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("unlabelled", {"gts": None}),
        ("unknown_modality", {"modality": None}),
        ("constant_image", {"imgs": FRAME + 7}),
        ("small_label", {"gts": with_label((slice(1, 3), slice(4, 6), slice(4, 6)))}),
        ("one_slice_label", {"gts": with_label((slice(1, 2), slice(4, 9), slice(4, 9)))}),
        ("empty_label", {"label_names": NAMES}),
        ("anisotropy", {"spacing_xyz": (0.5, 0.5, 2.6)}),
        ("label_at_border", {"gts": with_label((slice(1, 3), slice(4, 9), slice(20, 24)))}),
    ],
)
def test_problems_of_one_case(folder: Path, kind: str, options: dict[str, Any]) -> None:
    write(folder / "train" / "bad.npz", 9, **options)
    (problem,) = problems_of(folder)
    assert (problem.kind, problem.files) == (kind, ("train/bad.npz",))


def test_what_is_no_problem(folder: Path) -> None:
    """Labels that go to the last slice, one slice of a 2D image, five times as long as wide."""
    to_the_end = with_label((slice(0, 4), slice(4, 9), slice(4, 9)))
    write(folder / "train" / "a.npz", 9, gts=to_the_end, spacing_xyz=(0.5, 0.5, 2.5))
    write_npz(folder / "train" / "b.npz", (1, 40, 40), (1,), modality="CT", form="ellipse")
    assert problems_of(folder) == []


def test_one_image_in_two_splits_is_loud(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "train" / "c0.npz", folder / "train" / "again.npz")
    (problem,) = problems_of(folder)
    assert (problem.kind, problem.severity) == ("identical_image", "warning")
    with np.load(folder / "train" / "c0.npz") as stored:
        np.savez(folder / "test" / "other.npz", imgs=stored["imgs"], gts=INSIDE, modality="CT")
    problem, *others = problems_of(folder)
    assert (problem.kind, problem.severity, others) == ("leak", "error", [])
    assert problem.files == ("test/other.npz", "train/again.npz", "train/c0.npz")
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "LEAK: 1 image in several splits" in shown
    assert "test/other.npz and train/again.npz and train/c0.npz" in shown


def test_one_name_in_two_splits(folder: Path) -> None:
    write(folder / "val" / "c0.npz", 9)
    (problem,) = problems_of(folder)
    assert problem.kind == "duplicate_name"
    assert problem.files == ("train/c0.npz", "val/c0.npz")


def test_one_id_with_two_names(folder: Path) -> None:
    write(folder / "train" / "x.npz", 9, label_names=np.array('{"1": "kidney"}'))
    write(folder / "train" / "y.npz", 8, label_names=np.array('{"1": "polyp"}'), modality="MR")
    (problem,) = problems_of(folder)
    assert problem.kind == "label_name_conflict"
    assert problem.text == "label 1 of CT is 'liver' in 2, 'kidney' in 1 cases"


def test_unreadable_files_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train" / "broken.npz").write_bytes(b"PK\3\4 nothing")
    np.savez(folder / "train" / "other.npz", weights=np.ones(3))
    assert main(["inspect", str(folder)]) == 0
    assert "error: unreadable (2)" in capsys.readouterr().out
    files = [problem.files for problem in problems_of(folder)]
    assert files == [("train/broken.npz",), ("train/other.npz",)]


def test_nothing_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.npz").write_bytes(b"")
    for place, words in (
        (tmp_path, "none of its 1 npz files is a case"),
        (tmp_path / "none", "no such folder"),
        (tmp_path / "broken.npz", "no such folder"),
    ):
        assert main(["inspect", str(place)]) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "broken.npz").unlink()
    assert main(["inspect", str(tmp_path)]) == 2
    assert "holds no .npz case" in capsys.readouterr().err


def test_where_cases_lie(tmp_path: Path) -> None:
    for place in ("a/imgs", "a/gts", ".store/cases", "b/val"):
        write(tmp_path / place / "x.npz")
    write(tmp_path / "a" / "imgs" / "y.npz")
    write(tmp_path / "a" / "imgs" / ".x.tmp-1.npz")
    (tmp_path / "a" / "splits.json").write_text('{"train": ["y.npz"], "val": [], "test": ["x"]}')
    found = {case.file: case.split for case in find_case_files(tmp_path)}
    assert found == {"a/imgs/x.npz": "test", "a/imgs/y.npz": "train", "b/val/x.npz": "val"}
    assert [case.file for case in find_case_files(tmp_path, "val")] == ["b/val/x.npz"]
    assert [case.split for case in find_case_files(tmp_path / "b" / "val")] == ["val"]


def test_a_split_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / "val")
    assert main(["inspect", str(folder), "--split", "val"]) == 2
    assert "none of its 3 cases is in the split val" in capsys.readouterr().err


def test_damaged_splits_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "x.npz")
    for content in ("[]", '{"train": 3}', "{"):
        (tmp_path / "splits.json").write_text(content)
        assert main(["inspect", str(tmp_path)]) == 2
        assert "splits.json: is not of the form" in capsys.readouterr().err


def test_json_holds_everything(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "broken.npz").write_bytes(b"")
    file = tmp_path / "new" / "facts.json"
    assert main(["inspect", str(folder), "--json", str(file), "--min_voxels", "60"]) == 0
    content = json.loads(file.read_text())
    assert content["format"] == 1
    assert [case["file"] for case in content["cases"]] == [
        "test/c3.npz",
        "train/c0.npz",
        "train/c1.npz",
        "val/c2.npz",
    ]
    first = content["cases"][0]["labels"][0]
    assert first["box_xyzxyz"] == [4, 4, 1, 8, 8, 2]
    assert first["volume_mm3"] == pytest.approx(50 * 0.8 * 0.9 * 2.5)
    assert [problem["kind"] for problem in content["problems"]].count("small_label") == 4
    assert [bad["file"] for bad in content["unreadable"]] == ["train/broken.npz"]
    (modality,) = content["modalities"]
    assert modality["splits"] == {"train": 2, "test": 1, "val": 1}
    assert modality["depth"] == {"min": 4, "median": 4, "max": 4}


def test_summaries(folder: Path) -> None:
    write_npz(folder / "train" / "p.npz", (1, 30, 40), (5,), modality="fundus", colour=True)
    facts, _ = measure_files(find_case_files(folder), 1, lambda: None)
    ct, fundus = summarize_modalities(facts)
    assert (ct.modality, ct.cases, ct.kinds) == ("CT", 4, {"3D": 4})
    assert (fundus.colour, fundus.kinds, fundus.slice_mm) == (1, {"2D": 1}, None)
    labels = {(s.modality, s.name, s.ids): s for s in summarize_labels(facts)}
    named, unnamed = labels["CT", "liver", (1,)], labels["CT", None, (1,)]
    assert (named.cases, named.objects, named.slices) == (2, 2, 4)
    assert (unnamed.cases, unnamed.voxels.median) == (2, 50)
    assert labels["fundus", None, (5,)].volume_mm3 is None


def test_instances_of_one_name_are_one_row(tmp_path: Path) -> None:
    gts = INSIDE + with_label((slice(1, 3), slice(12, 18), slice(12, 18)), 9)
    write(tmp_path / "x.npz", gts=gts, label_names=np.array('{"1": "cell", "9": "cell"}'))
    (row,) = summarize_labels(measure_files(find_case_files(tmp_path), 1, lambda: None)[0])
    assert (row.name, row.ids, row.cases, row.objects) == ("cell", (1, 9), 1, 2)


def test_tables_of_cases_and_long_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        write_npz(tmp_path / f"c{number}.npz", (1, 60, 60), range(1, 31), seed=number)
    assert main(["inspect", str(tmp_path), "--cases"]) == 0
    shown = capsys.readouterr().out
    assert "c4.npz" in shown
    assert "and 10 more labels of unknown; --json lists all of them" in shown
    assert "warning: unknown_modality (5)" in shown
    assert "and 2 more; --json lists all of them" in shown


@pytest.mark.parametrize("labelled", [True, False])
def test_figure(folder: Path, tmp_path: Path, labelled: bool) -> None:
    if not labelled:
        for path in folder.rglob("*.npz"):
            write_npz(path, (1, 20, 20), gts=None, colour=True)
    file = tmp_path / "new" / "figure.png"
    assert main(["inspect", str(folder), "--figure", str(file)]) == 0
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[0] > 900
    assert len(np.unique(pixels[::2, ::2].astype(int) @ [65536, 256, 1])) > 50


def test_options_that_do_not_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, words in (
        (["--workers", "0"], "--workers is 0"),
        (["--figure", "x.pdf"], "--figure x.pdf: is a PNG file"),
    ):
        assert main(["inspect", str(folder), *options]) == 2
        assert words in capsys.readouterr().err
