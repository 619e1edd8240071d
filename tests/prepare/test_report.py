from pathlib import Path

import numpy as np
import psutil
import pytest
from nifti_sets import box_labels, write_nifti, write_set
from PIL import Image

from medsam2_ft.prepare import prepare
from medsam2_ft.prepare.cleanup import Cleanup
from medsam2_ft.prepare.manifest import Record
from medsam2_ft.prepare.pool import MEMORY_PER_WORKER, default_workers
from medsam2_ft.prepare.report import warnings_about


def test_bar_on_a_terminal_and_lines_in_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = write_set(tmp_path, ["a", "b", "c"])
    write_nifti(labels / "b.nii.gz", np.zeros_like(box_labels()))
    prepare(images, labels, tmp_path / "log", modality="CT", workers=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "[1/3] a: 2 labels",
        "[2/3] b: skipped: the label file is empty: background only",
        "[3/3] c: 2 labels",
    ]
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    prepare(images, labels, tmp_path / "bar", modality="CT", workers=1)
    said = capsys.readouterr().out
    assert "preparing" in said
    assert "3/3" in said
    assert "b: skipped: the label file is empty" in said
    assert "[1/3]" not in said


def record(name: str, label_name: str | None, split: str = "train") -> Record:
    labels = [{"id": 1, "name": label_name, "voxels": 5, "map": 0}]
    return Record(name, "written", "r", name, name, {}, {}, name, split, labels=labels)


def test_an_id_with_two_meanings() -> None:
    mixed = [record("a", "liver"), record("b", "spleen", "val"), record("c", None)]
    (warning,) = warnings_about(mixed, [])
    assert warning.startswith("label 1 has several names (liver in a, spleen in b)")
    assert warnings_about([record("a", "liver"), record("b", "liver", "val")], []) == []


def test_instances_count_as_their_label() -> None:
    labels = [{"id": 3 * 256 + 1, "name": "label 3", "voxels": 5, "map": 0}]
    split = Record("a", "written", "r", "a", "a", {}, {}, "a", "val", labels=labels)
    rules = [Cleanup(instances_of=(3, 4))]
    found = warnings_about([split, record("b", None)], rules)
    assert found == ["instances_of names labels that no case has: [4]"]


@pytest.mark.parametrize(
    ("rules", "absent"),
    [
        ({"keep": [1, 2]}, None),
        ({"keep": [1, 2, 7]}, "keep names labels that no case has: [7]"),
        ({"drop": [2]}, None),
        ({"drop": [2, 8, 9]}, "drop_labels names labels that no case has: [8, 9]"),
        ({"merge": {5: [1, 2]}}, None),
        ({"merge": {5: [1, 6]}}, "merge names labels that no case has: [6]"),
        ({"merge": {5: [1, 2]}, "keep": [1, 2]}, None),
        ({"merge": {5: [1, 2]}, "instances_of": [5]}, None),
    ],
)
def test_ids_of_a_rules_file_that_no_case_has(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rules: dict[str, object],
    absent: str | None,
) -> None:
    images, labels = write_set(tmp_path, ["a", "b", "c"])
    for _ in range(2):  # the second time from the manifest
        prepare(images, labels, tmp_path / "out", modality="CT", workers=1, label_rules=rules)
        said = capsys.readouterr().out
        assert [line for line in said.splitlines() if line.startswith("warning")] == (
            [f"warning: {absent}"] if absent else []
        )


def test_colours_that_all_became_label_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, colour in (("a", (255, 0, 0)), ("b", (255, 0, 0)), ("c", (0, 128, 0))):
        image = rng.integers(0, 255, (20, 20)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{name}.png")
        mask = np.zeros((20, 20, 3), np.uint8)
        mask[2:8, 3:9] = colour
        Image.fromarray(mask).save(tmp_path / f"labels/{name}.png")
    warning = "warning: 2 colours became label 1 (#ff0000 in a, #008000 in c)"
    for _ in range(2):
        prepare(
            tmp_path / "images", tmp_path / "labels", tmp_path / "out",
            modality="dermoscopy", workers=1,
        )  # fmt: skip
        assert warning in capsys.readouterr().out
    (tmp_path / "labels/c.png").unlink()
    prepare(
        tmp_path / "images", tmp_path / "labels", tmp_path / "out", modality="dermoscopy", workers=1
    )
    assert "became label 1" not in capsys.readouterr().out


@pytest.mark.parametrize(("gib", "most"), [(0.1, 1), (5, 2), (1000, 1000)])
def test_workers_need_memory(monkeypatch: pytest.MonkeyPatch, gib: float, most: int) -> None:
    class Memory:
        available = int(gib * 2**30)

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert MEMORY_PER_WORKER == 2 << 30
    assert default_workers() == min(8, most)
