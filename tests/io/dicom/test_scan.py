"""Which files of a tree belong together."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_files import (
    SECRET,
    along_z,
    cine,
    image,
    save,
    segmentation,
    series,
    structure_set,
    volume_of,
)
from pydicom.dataset import Dataset

from medsam2_ft.errors import UserError
from medsam2_ft.io.dicom import read_series, scan


def test_tree_of_everything(tmp_path: Path) -> None:
    ct = series(tmp_path / "st" / "ct", volume_of(), along_z(5))
    mr = series(tmp_path / "st" / "mr", volume_of()[:2], along_z(2), modality="MR", series="1.2.5")
    views = [
        save(image(volume_of()[z], None, modality="MG", series="1.2.6"), tmp_path / "mg" / str(z))
        for z in range(2)
    ]
    clip = save(cine(volume_of((2, 6, 7, 3), np.uint8)), tmp_path / "us" / "clip")
    rs = save(structure_set([(1, "x", [])]), tmp_path / "z" / "rs.dcm")
    seg = save(
        segmentation([(1, (0, 0, 0), np.ones((4, 4), np.uint8))]), tmp_path / "z" / "seg.dcm"
    )
    (tmp_path / "note.txt").write_text("x")
    (tmp_path / "z" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\7" * 60)
    report = image(volume_of()[0])
    for keyword in ("Rows", "PixelData"):
        delattr(report, keyword)
    report.Modality = "SR"
    save(report, tmp_path / "sr")

    found = scan(tmp_path)
    files = {one.files: one for one in found}
    assert set(files) == {
        tuple(sorted(ct)),
        tuple(sorted(mr)),
        (views[0],),
        (views[1],),
        (clip,),
        (rs,),
        (seg,),
    }
    first = files[tuple(sorted(ct))]
    assert (first.kind, first.modality, first.uid, first.number) == ("image", "CT", "1.2.3", 7)
    assert (first.patient, first.frame_of_reference) == (SECRET, "1.2.9")
    assert first.folder == tmp_path / "st" / "ct"
    assert SECRET not in repr(found)
    assert "1.2.3" not in repr(found)
    for path in (rs, seg):
        labels = files[(path,)]
        assert (labels.kind, labels.modality) == ("labels", None)
        assert labels.refers_to == {"1.2.3"}
        assert labels.frame_of_reference == "1.2.9"
        assert labels.notes == ("1 files beside it are not readable",)
    np.testing.assert_array_equal(read_series(first.files).array, volume_of())


def test_series_over_several_folders(tmp_path: Path) -> None:
    a = series(tmp_path / "x" / "1", volume_of()[:3], along_z(5)[:3])
    b = series(tmp_path / "x" / "2", volume_of()[3:], along_z(5)[3:])
    (found,) = scan(tmp_path)
    assert set(found.files) == {*a, *b}
    assert found.folder == tmp_path / "x"


def test_series_without_uid_are_told_apart_by_folder_and_number(tmp_path: Path) -> None:
    def number(value: int) -> object:
        def change(z: int, dataset: Dataset) -> None:
            dataset.SeriesInstanceUID = ""
            dataset.SeriesNumber = value

        return change

    series(tmp_path / "a", volume_of(), along_z(5), number(1))  # type: ignore[arg-type]
    series(tmp_path / "b", volume_of(), along_z(5), number(1))  # type: ignore[arg-type]
    assert [len(one.files) for one in scan(tmp_path)] == [5, 5]


def test_pattern_and_bad_folder(tmp_path: Path) -> None:
    series(tmp_path / "a", volume_of(), along_z(5))
    series(tmp_path / "b", volume_of(), along_z(5), series="1.2.4")
    assert [one.uid for one in scan(tmp_path, "b/*")] == ["1.2.4"]
    assert scan(tmp_path, "*") == []
    with pytest.raises(UserError, match="no such folder"):
        scan(tmp_path / "gone")
    with pytest.raises(UserError, match="cannot list"):
        scan(tmp_path, "/etc/*")


def test_without_pydicom_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from medsam2_ft.errors import UserError\n"
        "from medsam2_ft.io import read_volume\n"
        "try: read_volume(sys.argv[1])\n"
        "except UserError as error: print(error)\n"
    )
    path = save(image(volume_of()[0]), tmp_path / "a.dcm")
    command = [sys.executable, "-c", code, str(path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "pip install 'medsam2-ft[dicom]'" in shown
