"""Which files a case depends on: data files of detached headers count, too."""

import hashlib
from pathlib import Path, PurePath

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nifti_sets import box_labels, ct_like

from medsam2_ft.errors import UserError
from medsam2_ft.io.sources import Source
from medsam2_ft.prepare import prepare
from medsam2_ft.prepare.checksums import source_checksums
from medsam2_ft.prepare.pairing import Pair
from medsam2_ft.prepare.sources import SourceFile


def checksums(path: Path) -> dict[str, str]:
    label = SourceFile(Source(path), PurePath("l") / path.name)
    return source_checksums(Pair("x", SourceFile(Source(path), PurePath(path.name)), label))


@pytest.mark.parametrize(
    ("name", "header", "parts"),
    [
        ("a.nii", "anything", []),
        ("a.nhdr", "NRRD0004\ntype: short\ndata file: a.raw\n", ["a.raw"]),
        ("a.nhdr", "NRRD0004\ndatafile: sub/a.raw.gz\r\n", ["sub/a.raw.gz"]),
        ("a.mhd", "NDims = 3\nElementDataFile = a.zraw\n", ["a.zraw"]),
        ("a.mhd", "ElementDataFile = LOCAL\nxyz", []),
        ("a.mhd", "ElementDataFile = LIST\ns1.raw\ns2.raw\n", ["s1.raw", "s2.raw"]),
        ("a.mhd", "ElementDataFile = s%02d.raw 1 2 1\n", ["s01.raw", "s02.raw"]),
    ],
)
def test_parts(tmp_path: Path, name: str, header: str, parts: list[str]) -> None:
    (tmp_path / name).write_bytes(header.encode())
    for part in parts:
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).write_bytes(part.encode())
    expected = {
        file: hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() for file in [name, *parts]
    }
    labels = {f"labels:l/{file}": value for file, value in expected.items()}
    assert checksums(tmp_path / name) == expected | labels


def test_missing_parts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.nii: cannot be read \(No such file"):
        checksums(tmp_path / "a.nii")
    with pytest.raises(UserError, match=r"a\.mhd: cannot be read"):
        checksums(tmp_path / "a.mhd")
    (tmp_path / "a.mhd").write_text("ElementDataFile = gone.raw\n")
    with pytest.raises(UserError, match=r"gone\.raw.* is missing"):
        checksums(tmp_path / "a.mhd")


def test_changed_voxels_behind_an_unchanged_header(tmp_path: Path) -> None:
    image, labels, out = tmp_path / "a.mhd", tmp_path / "a_seg.mhd", tmp_path / "out"
    sitk.WriteImage(sitk.GetImageFromArray(ct_like()), str(image))
    sitk.WriteImage(sitk.GetImageFromArray(box_labels()), str(labels))
    assert prepare(image, labels, out, modality="CT", workers=1).built == 1
    assert prepare(image, labels, out, modality="CT", workers=1).built == 0
    raw = np.fromfile(tmp_path / "a.raw", np.int16)
    raw[-1] += 50
    raw.tofile(tmp_path / "a.raw")
    assert prepare(image, labels, out, modality="CT", workers=1).built == 1


def test_labels_in_a_sister_folder(tmp_path: Path) -> None:
    for folder in ("imgs", "gts"):
        (tmp_path / folder).mkdir()
    np.savez(
        tmp_path / "imgs/a.npz", imgs=np.arange(4 * 20 * 24, dtype=np.uint8).reshape(4, 20, 24)
    )
    np.savez(tmp_path / "gts/a.npz", gts=box_labels())
    images, out = tmp_path / "imgs", tmp_path / "out"
    assert prepare(images, images, out, modality="MR", workers=1).built == 1
    np.savez(tmp_path / "gts/a.npz", gts=box_labels() * 2)
    assert prepare(images, images, out, modality="MR", workers=1).built == 1
    assert prepare(images, images, out, modality="MR", workers=1).built == 0
