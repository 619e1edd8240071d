"""DICOM SEG that we write, read by highdicom and pydicom."""

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_files import SECRET, along_z, enhanced, image, save, series, volume_of
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_labels
from medsam2_ft.io.dicom import read_series
from medsam2_ft.io.dicom.write_seg import Author, write_dicom_seg
from medsam2_ft.types import LabelVolume

AUTHOR = Author("tiny", ((255, 0, 0), (0, 255, 0)))
OBLIQUE = (0.0, 0.8, 0.6, 1.0, 0.0, 0.0)


def drawn(shape: tuple[int, ...], *ids: int) -> NDArray[np.uint8]:
    labels = np.zeros(shape, np.uint8)
    rng = np.random.default_rng(1)
    for number in ids:
        labels[rng.random(shape) < 0.2] = number
    labels[0] = 0  # a slice without anything
    return labels


def masks_of(path: Path, uids: list[str], number: int) -> NDArray[Any]:
    """What highdicom says lies on each of these images."""
    segmentation = highdicom.seg.segread(path)
    found = segmentation.get_pixels_by_source_instance(
        uids, segment_numbers=[number], assert_missing_frames_are_empty=True
    )
    return np.asarray(found[..., 0])


def in_order(files: list[Path], normal: tuple[float, float, float]) -> list[str]:
    """UIDs of the images along the slice normal."""
    read = [pydicom.dcmread(file) for file in files]
    read.sort(key=lambda ds: float(np.dot(ds.ImagePositionPatient, normal)))
    return [str(ds.SOPInstanceUID) for ds in read]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_series_in_any_order(tmp_path: Path, overlap: bool) -> None:
    files = series(tmp_path / "ct", volume_of((5, 6, 7)), along_z(5))
    first, second = drawn((5, 6, 7), 3, 7), np.zeros((5, 6, 7), np.uint8)
    if overlap:
        second[2:4, 1:5, 1:5] = 9
    volume = read_series(files)
    labels = LabelVolume((first, second), {3: "liver", 9: "tumour"}, volume.geometry)
    if not overlap:
        labels = LabelVolume((first,), {3: "liver"}, volume.geometry)
    numbers = write_dicom_seg(tmp_path / "seg.dcm", labels, files, AUTHOR)
    assert numbers == ({3: 1, 7: 2, 9: 3} if overlap else {3: 1, 7: 2})

    uids = in_order(files, (0, 0, 1))
    for label, number in numbers.items():
        expected = (first == label) | (second == label)
        assert np.array_equal(masks_of(tmp_path / "seg.dcm", uids, number), expected)
    own = read_labels(tmp_path / "seg.dcm", like=volume)
    assert own.geometry == volume.geometry
    for label, number in numbers.items():
        ours = np.logical_or.reduce([label_map == number for label_map in own.maps])
        assert np.array_equal(ours, (first == label) | (second == label))

    raw = pydicom.dcmread(tmp_path / "seg.dcm")
    source = pydicom.dcmread(files[0])
    assert raw.SegmentationType == "BINARY"
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert raw[keyword].value == source[keyword].value
    assert raw.SeriesInstanceUID != source.SeriesInstanceUID
    referred = raw.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == source.SeriesInstanceUID
    assert [item.SegmentLabel for item in raw.SegmentSequence][:2] == ["liver", "Object 7"]
    assert {item.SegmentAlgorithmType for item in raw.SegmentSequence} == {"SEMIAUTOMATIC"}
    colors = [tuple(item.RecommendedDisplayCIELabValue) for item in raw.SegmentSequence]
    assert len(set(colors[:2])) == 2
    assert list(tmp_path.glob(".*")) == []


def test_an_oblique_series(tmp_path: Path) -> None:
    normal = (-0.6, 0.0, 0.0)
    normal = tuple(np.cross(OBLIQUE[:3], OBLIQUE[3:]))  # type: ignore[assignment]
    places = [tuple(np.array([3.0, -8.0, 2.0]) + 2.5 * z * np.array(normal)) for z in range(4)]
    files = series(tmp_path / "mr", volume_of((4, 9, 5)), places, orientation=OBLIQUE)
    volume = read_series(files)
    labels = LabelVolume((drawn((4, 9, 5), 1),), {}, volume.geometry)
    write_dicom_seg(tmp_path / "seg.dcm", labels, files, AUTHOR)
    uids = in_order(files, normal)
    assert np.array_equal(masks_of(tmp_path / "seg.dcm", uids, 1), labels.maps[0] == 1)
    seen = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    # voxel (0, 0, 0) of highdicom's volume is the corner of one of the slices with a voxel
    corners = {tuple(np.round(np.array(place, float), 3)) for place in places}
    assert tuple(np.round(seen.affine[:3, 3], 3)) in corners


def test_one_file_of_many_frames(tmp_path: Path) -> None:
    places = along_z(4)
    order = [2, 0, 3, 1]
    dataset = enhanced(volume_of((4, 6, 7)), [places[z] for z in order])
    path = save(dataset, tmp_path / "enhanced.dcm")
    volume = read_series([path])
    labels = LabelVolume((drawn((4, 6, 7), 1, 2),), {}, volume.geometry)
    write_dicom_seg(tmp_path / "seg.dcm", labels, [path], AUTHOR)
    found = read_labels(tmp_path / "seg.dcm", like=volume)
    assert np.array_equal(found.maps[0], labels.maps[0])
    segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
    by_frame = segmentation.get_pixels_by_source_frame(
        dataset.SOPInstanceUID, [1, 2, 3, 4], combine_segments=True,
        assert_missing_frames_are_empty=True,
    )  # fmt: skip
    assert np.array_equal(by_frame, labels.maps[0][order])


def test_a_single_image(tmp_path: Path) -> None:
    path = save(image(volume_of((6, 7))), tmp_path / "one.dcm")
    labels = np.zeros((1, 6, 7), np.uint8)
    labels[0, 2:4, 3:5] = 1
    write_dicom_seg(tmp_path / "seg.dcm", LabelVolume((labels,)), [path], AUTHOR)
    assert np.array_equal(read_labels(tmp_path / "seg.dcm").maps[0], labels)


def test_patients_whose_header_is_bare(tmp_path: Path) -> None:
    def bare(_: int, dataset: Any) -> None:
        for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
            del dataset[keyword]
        dataset.StudyTime = ""

    files = series(tmp_path / "ct", volume_of((3, 6, 7)), along_z(3), change=bare)
    labels = LabelVolume((drawn((3, 6, 7), 1),))
    write_dicom_seg(tmp_path / "seg.dcm", labels, files, AUTHOR)
    assert np.array_equal(read_labels(tmp_path / "seg.dcm", like=read_series(files)).maps[0],
                          labels.maps[0])  # fmt: skip


def test_a_segment_without_a_voxel(tmp_path: Path) -> None:
    files = series(tmp_path / "ct", volume_of((3, 6, 7)), along_z(3))
    labels = LabelVolume((drawn((3, 6, 7), 2),), {1: "nothing", 2: "some\\thing"})
    assert write_dicom_seg(tmp_path / "seg.dcm", labels, files, AUTHOR) == {1: 1, 2: 2}
    found = read_labels(tmp_path / "seg.dcm", like=read_series(files))
    assert found.label_names == {1: "nothing", 2: "some/thing"}
    assert np.array_equal(found.maps[0], labels.maps[0])


def test_what_cannot_be_written(tmp_path: Path) -> None:
    files = series(tmp_path / "ct", volume_of((3, 6, 7)), along_z(3))
    target = tmp_path / "seg.dcm"
    with pytest.raises(UserError, match="no object has a voxel"):
        write_dicom_seg(target, LabelVolume((np.zeros((3, 6, 7), np.uint8),)), files, AUTHOR)
    with pytest.raises(UserError, match="has 3 slices of 6 x 7 pixels"):
        write_dicom_seg(target, LabelVolume((drawn((3, 7, 6), 1),)), files, AUTHOR)
    stray = series(tmp_path / "mixed", volume_of((3, 6, 7)), along_z(3), change=_own_study)
    with pytest.raises(UserError, match="no DICOM SEG can refer") as caught:
        write_dicom_seg(target, LabelVolume((drawn((3, 6, 7), 1),)), stray, AUTHOR)
    assert SECRET not in str(caught.value)
    assert not target.exists()
    assert list(tmp_path.glob(".*")) == []


def _own_study(z: int, dataset: Any) -> None:
    dataset.StudyInstanceUID = f"1.2.3.{z}"
