"""Names of files that a terminal would obey, that are no UTF-8, or that lead out of the folder."""

import os
from pathlib import Path

import numpy as np
import pytest
from nifti_sets import box_labels, ct_like, read_manifest, snapshot, write_nifti
from PIL import Image

from medsam2_ft.entry import one_line, printable
from medsam2_ft.errors import UserError
from medsam2_ft.inspection.command import inspect
from medsam2_ft.io import read_volume, write_labels, write_volume
from medsam2_ft.io.npz import write_case
from medsam2_ft.prepare import prepare
from medsam2_ft.types import Case, LabelVolume, Volume

LATIN = os.fsdecode(b"M\xfcller")


def write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_names_that_are_no_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    root = tmp_path / LATIN
    for name in (f"{LATIN}1", f"{LATIN}2"):
        write_png(root / f"im/{name}.png", rng.integers(0, 255, (20, 20)).astype(np.uint8))
        write_png(root / f"la/{name}.png", np.eye(20, dtype=np.uint8))
    write_png(root / f"la/{LATIN}lone.png", np.eye(20, dtype=np.uint8))
    (root / f"im/{LATIN}3.png").write_bytes(b"x")
    write_png(root / f"la/{LATIN}3.png", np.eye(20, dtype=np.uint8))
    out = tmp_path / "out"
    for built in (2, 0):
        with pytest.raises(UserError, match="1 of 3 cases failed") as caught:
            prepare(root / "im", root / "la", out, modality="OCT", workers=1)
        assert "M?ller3.png" in one_line(caught.value)
        assert f"{built} built" in capsys.readouterr().out or not built
    manifest = read_manifest(out)
    assert [entry["name"] for entry in manifest["written"]] == ["M-ller1", "M-ller2"]
    assert manifest["unused_labels"] == [f"{LATIN}lone.png"]
    before = snapshot(out)
    (root / f"im/{LATIN}3.png").unlink()
    (root / f"la/{LATIN}3.png").unlink()
    assert prepare(root / "im", root / "la", out, modality="OCT", workers=1).up_to_date == 2
    assert {k: v for k, v in snapshot(out).items() if k.endswith("npz")} == {
        k: v for k, v in before.items() if k.endswith("npz")
    }


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_itk_would_abort(tmp_path: Path, suffix: str) -> None:
    volume = Volume(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    write_volume(tmp_path / f"x{suffix}", volume)
    odd = (tmp_path / f"x{suffix}").rename(tmp_path / f"{LATIN}{suffix}")
    with pytest.raises(UserError, match="no UTF-8"):
        read_volume(odd)
    write_volume(tmp_path / f"Müller{suffix}", volume)
    np.testing.assert_array_equal(read_volume(tmp_path / f"Müller{suffix}").array, volume.array)


@pytest.mark.parametrize("suffix", [".nii.gz", ".h5", ".npz"])
def test_every_reader_opens_them(tmp_path: Path, suffix: str) -> None:
    array = np.arange(42, dtype=np.uint8).reshape(2, 3, 7)
    plain = tmp_path / f"x{suffix}"
    if suffix == ".h5":
        import h5py

        with h5py.File(plain, "w") as file:
            file["image"] = array
    else:
        write_volume(plain, Volume(array))
    odd = plain.rename(tmp_path / f"{LATIN}{suffix}")
    np.testing.assert_array_equal(read_volume(odd).array, array)
    if suffix == ".npz":
        write_labels(odd, LabelVolume((array,)))


def test_escape_sequences_reach_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_nifti(tmp_path / "in/a.nii.gz", ct_like())
    write_nifti(tmp_path / "in/a_seg.nii.gz", box_labels())
    write_nifti(tmp_path / "in/\x1b]0;x\x07lone_seg.nii.gz", box_labels())
    (tmp_path / "in/b\x1b[2J.nii.gz").write_bytes(b"x")
    write_nifti(tmp_path / "in/b\x1b[2J_seg.nii.gz", box_labels())
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "in", tmp_path / "in", tmp_path / "out", modality="CT", workers=1)
    said = capsys.readouterr().out + one_line(caught.value)
    assert "lone_seg" in said
    assert {char for char in said if not char.isprintable()} == {"\n"}


def test_names_in_cases_reach_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.zeros((2, 8, 9), np.uint8)
    labels[:, 2:4] = 1
    names = {1: "[/x][red]\x1b[2J"}
    write_case(tmp_path / "\x1b[3m.npz", Case("x", labels + 1, (labels,), label_names=names))
    inspect(tmp_path, cases=True, workers=1)
    said = capsys.readouterr().out
    assert "[/x][red]?[2J" in said
    assert "\x1b" not in said


def test_printable() -> None:
    assert printable("Müller \u6f22 a\nb") == "Müller \u6f22 a\nb"
    assert printable("a\u202eb\x1b\r\udcfc") == "a?b???"


@pytest.mark.parametrize("prefix", ["../x", "a/b", "..", ".hidden_", "a b"])
def test_a_prefix_that_is_no_part_of_a_name(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(UserError, match="--name_prefix"):
        prepare(tmp_path, tmp_path, tmp_path / "out", modality="CT", name_prefix=prefix)
    assert list(tmp_path.iterdir()) == []
