"""Headers that name their data files: by every spelling, and never outside their folder."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_labels, read_volume
from medsam2_ft.io.detached import data_files

META = "ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_UCHAR\n"
NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw\n"


def named(header: Path, text: str) -> list[str]:
    header.write_bytes(text.encode())
    return [str(path.relative_to(header.parent)) for path in data_files(header)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.mhd", META + "ElementDataFile = s1.raw\n", ["s1.raw"]),
        ("a.mhd", META + "ElementDataFile: s1.raw", ["s1.raw"]),
        ("a.mha", META + "ElementDataFile = LOCAL\n\n\ndata file: gone\n", []),
        (
            "a.mhd",
            META + "ElementDataFile = LIST 2\nsub/x y.raw\ns1.raw\n",
            ["sub/x y.raw", "s1.raw"],
        ),
        ("a.mhd", META + "ElementDataFile = s%d.raw 1 2 1\n", ["s1.raw", "s2.raw"]),
        ("a.mhd", META + "ElementDataFile = sub/s%02d.raw 1 1 1\n", ["sub/s01.raw"]),
        ("a.nhdr", NRRD + "data file: s1.raw\n", ["s1.raw"]),
        ("a.nhdr", NRRD.replace("\n", "\r\n") + "datafile: s1.raw\r\n\r\n", ["s1.raw"]),
        ("a.nhdr", NRRD + "data file: LIST\ns2.raw\ns1.raw\n", ["s2.raw", "s1.raw"]),
        ("a.nrrd", NRRD + "# data file: gone\nnote:=data file: gone\n\ndata file: gone\n", []),
        ("a.nrrd", NRRD + "data file:=gone\n\n", []),
    ],
)
def test_spellings(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    (tmp_path / "sub").mkdir()
    for part in ("s1.raw", "s2.raw", "sub/s01.raw", "sub/x y.raw", "s1.raw.txt"):
        (tmp_path / part).touch()
    assert named(tmp_path / name, text) == expected


@pytest.mark.parametrize(
    "value",
    [
        "/etc/passwd",
        "/dev/zero",
        "../x.raw",
        "sub/../../x.raw",
        "..\\x.raw",
        "../s%d.raw 1 2 1",
        "/etc/s%d.raw 1 2 1",
        "%s%s%n 1 2 1",
        "LIST\n../x.raw",
        "gone.raw",
        "folder",
    ],
)
@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nhdr", ".nrrd", ".seg.nrrd"])
def test_files_elsewhere_are_not_opened(tmp_path: Path, suffix: str, value: str) -> None:
    (tmp_path / "x.raw").write_bytes(bytes(range(24)))
    (tmp_path / "in/folder").mkdir(parents=True)
    path = tmp_path / f"in/a{suffix}"
    nrrd = suffix.endswith(("nrrd", "nhdr"))
    path.write_text((NRRD + "data file: " if nrrd else META + "ElementDataFile = ") + value + "\n")
    with pytest.raises(UserError, match=r"its data file .* put it beside the header"):
        read_labels(path)


def test_a_second_field_hides_nothing(tmp_path: Path) -> None:
    hidden = META.replace("2 3 4\n", "2 3 4 ElementDataFile = /etc/passwd\n")
    path = tmp_path / "a.mha"
    path.write_text(f"Comment = ElementDataFile = LOCAL\n{hidden}ElementDataFile = LOCAL\n")
    with pytest.raises(UserError, match="may lead elsewhere"):
        read_volume(path)


def test_a_header_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n" + b"# note\n" * 700_000)
    with pytest.raises(UserError, match="does not end"):
        data_files(tmp_path / "a.nrrd")


def test_numbered_slices_are_read_as_itk_reads_them(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    for z, plane in enumerate(array):
        (tmp_path / f"s{z}.raw").write_bytes(plane.tobytes())
    (tmp_path / "a.mhd").write_text(META + "ElementDataFile = s%d.raw 0 3 1\n")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mhd").array, array)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "a.mhd")), array)
