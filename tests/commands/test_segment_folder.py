"""``medsam2-ft segment`` on a folder: names, resume, failures, interruption."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import synthetic

from medsam2_ft.__main__ import main
from medsam2_ft.io import read_labels

MODEL = ("--model", "random:tiny_test", "--strategy", "box")


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    folder = tmp_path / "cases"
    for number in range(3):
        synthetic.write_npz(
            folder / f"case_{number}.npz", (4, 24, 30), (1, 2), modality="CT", seed=number
        )
    return folder


def segment(cases: Path, out: Path, *args: object) -> int:
    extra = () if "--from_labels" in args or "--prompts" in args else ("--from_labels", cases)
    return main(["segment", *map(str, (cases, "--out", out, *extra, *MODEL, *args))])


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_every_case_gets_a_file_on_its_own_grid(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert segment(cases, out, "--overlay", "png") == 0
    names = {f"case_{n}" for n in range(3)}
    expected = {f"{n}{end}" for n in names for end in (".nii.gz", ".segment.json", "_overlay.png")}
    assert {path.name for path in out.iterdir()} == expected
    assert nib.load(out / "case_1.nii.gz").shape == (30, 24, 4)  # type: ignore[attr-defined]
    record = json.loads((out / "case_1.segment.json").read_text())
    voxels = {found["id"]: found["voxels"] for found in record["objects"]}
    made = read_labels(out / "case_1.nii.gz").maps[0]
    assert voxels == {label: int((made == label).sum()) for label in (1, 2)}
    assert "3 cases segmented, 0 were there already" in capsys.readouterr().out


def test_what_is_done_is_skipped_until_something_changes(cases: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def again(*args: object) -> set[str]:
        """Names of the segmentations that a run has written."""
        before = stamps(out) if out.exists() else {}
        assert segment(cases, out, *args) == 0
        after = stamps(out)
        return {name for name in after if name.endswith(".gz") and after[name] != before.get(name)}

    everything = {f"case_{n}.nii.gz" for n in range(3)}
    assert again() == everything
    assert again() == set()
    synthetic.write_npz(cases / "case_1.npz", (4, 24, 30), (1,), modality="CT", seed=9)
    assert again() == {"case_1.nii.gz"}
    (out / "case_2.nii.gz").write_bytes(b"cut off")
    assert again() == {"case_2.nii.gz"}
    (out / "case_0.segment.json").write_text("{")
    assert again() == {"case_0.nii.gz"}
    assert again("--margin_px", "9") == everything
    assert again("--margin_px", "9", "--image_size", "64") == everything
    assert again("--margin_px", "9", "--image_size", "64", "--overwrite") == everything


def test_a_broken_case_does_not_stop_the_others(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (cases / "case_1.npz").read_bytes()
    (cases / "case_1.npz").write_bytes(good[:500])
    out = tmp_path / "out"
    assert segment(cases, out) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert "1 of 3 cases failed: case_1: failed: " in line
    assert {path.name for path in out.glob("*.gz")} == {"case_0.nii.gz", "case_2.nii.gz"}
    (cases / "case_1.npz").write_bytes(good)
    before = stamps(out)
    assert segment(cases, out) == 0
    assert {name for name in before if stamps(out)[name] != before[name]} == set()
    assert (out / "case_1.nii.gz").is_file()


def test_one_file_of_prompts_for_all(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "p.csv"
    rows = "case,object,name,kind,coordinates,slice\n"
    given.write_text(rows + "case_0,2,liver,box,3 3 15 15,1\ncase_2,7,,box,3 3 0 15 15 2,\n")
    out = tmp_path / "out"
    assert segment(cases, out, "--prompts", given, "--format", "seg.nrrd") == 0
    assert {path.name for path in out.glob("*.nrrd")} == {"case_0.seg.nrrd", "case_2.seg.nrrd"}
    assert "left out: case_1" in capsys.readouterr().out
    assert read_labels(out / "case_0.seg.nrrd").label_names == {2: "liver"}
    assert not read_labels(out / "case_2.seg.nrrd").maps[0][3].any()

    before = stamps(out)
    given.write_text(rows + "case_0,2,liver,box,3 3 15 15,1\ncase_2,7,,box,3 3 0 15 16 2,\n")
    assert segment(cases, out, "--prompts", given, "--format", "seg.nrrd") == 0
    changed = {name for name in before if stamps(out)[name] != before[name]}
    assert changed == {"case_2.seg.nrrd", "case_2.segment.json"}

    given.write_text(rows + "case_9,2,liver,box,3 3 15 15,1\n")
    assert segment(cases, out, "--prompts", given) == 2
    assert "there is no case 'case_9'; did you mean" in capsys.readouterr().err
    given.write_text(rows + ",2,liver,box,3 3 15 15,1\n")
    assert segment(cases, out, "--prompts", given) == 2
    assert "does not say its case" in capsys.readouterr().err


def test_labels_of_another_folder(tmp_path: Path) -> None:
    gray, labels = synthetic.make_volume((4, 24, 30), (1, 2))
    for folder, array in (("images", gray), ("labels", labels.astype(np.uint8))):
        (tmp_path / folder).mkdir()
        image = nib.Nifti1Image(array.transpose(2, 1, 0), np.diag([1, 1, 3, 1]))  # type: ignore[attr-defined, no-untyped-call]
        nib.save(image, tmp_path / folder / "p1.nii.gz")  # type: ignore[attr-defined]
    out = tmp_path / "out"
    args = ("--from_labels", tmp_path / "labels", "--format", "mha")
    assert segment(tmp_path / "images", out, *args) == 0
    assert (out / "p1.mha").is_file()


def test_options_that_a_folder_cannot_have(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for args, reason in (
        (("--format", "doc"), "--format doc"),
        (("--overlay", "gif"), "overlays are .png or .mp4"),
        (("--overlap", "keep"), "--overlap keep needs"),
    ):
        assert segment(cases, out, *args) == 2
        assert reason in capsys.readouterr().err
    assert main(["segment", str(tmp_path / "none"), "--out", str(out), *MODEL]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["segment", str(cases), "--out", str(out), *MODEL, "--box", "1,2,3,4@1"]) == 2
    assert "does not say its case" in capsys.readouterr().err
    assert not out.exists()
    assert segment(cases, cases) == 2
    assert "give another folder" in capsys.readouterr().err
    content = (cases / "case_1.npz").read_bytes()
    (tmp_path / "beside").symlink_to(cases)
    assert segment(cases, tmp_path / "beside", "--format", "npz") == 2
    assert (cases / "case_1.npz").read_bytes() == content


def test_images_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The output folder lies above the images, and a name of theirs is that of a result."""
    case = synthetic.write_npz(tmp_path / "a.npz", (4, 24, 30), (1,), modality="CT")
    content = case.read_bytes()
    args = ["--out", tmp_path, "--from_labels", case, "--format", "npz", *MODEL]
    assert main([*map(str, ["segment", case, *args])]) == 2
    assert "is read and would be replaced" in capsys.readouterr().err
    assert case.read_bytes() == content


def test_ctrl_c_loses_the_case_under_way_alone(cases: Path, tmp_path: Path) -> None:
    for number in range(3, 40):
        shutil.copy(cases / "case_0.npz", cases / f"case_{number}.npz")
    out = tmp_path / "out"
    args = [cases, "--out", out, "--from_labels", cases, *MODEL]
    process = subprocess.Popen(
        [sys.executable, "-m", "medsam2_ft", "segment", *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(out.glob("*.segment.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "cases are done; the same command goes on" in errors
    assert "Traceback" not in errors
    records = {path.name.removesuffix(".segment.json") for path in out.glob("*.segment.json")}
    made = {path.name.removesuffix(".nii.gz") for path in out.glob("*.nii.gz")}
    assert 0 < len(records) < 40
    assert records <= made
    assert len(made) - len(records) <= 1
    for name in made:
        read_labels(out / f"{name}.nii.gz")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
