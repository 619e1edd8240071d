"""DICOM SEG, written by highdicom and by hand."""

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_files import (
    SECRET,
    along_z,
    base,
    put_pixels,
    save,
    segmentation,
    series,
    volume_of,
)
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_labels
from medsam2_ft.io.dicom import read_series
from medsam2_ft.types import Geometry, Volume

SHAPE = (5, 6, 7)
PLACES = along_z(5)


def _masks(overlap: bool = False) -> NDArray[np.bool_]:
    """``(z, y, x, segment)``; odd sizes, so that frames begin within a byte."""
    masks = np.zeros((*SHAPE, 3), np.bool_)
    masks[1:4, 1:4, 1:5, 0] = True
    masks[2:5, 4:6, 2:7, 1] = True
    masks[0, 0, 0, 2] = True
    if overlap:
        masks[2:5, 2:6, 3:7, 1] = True
    return masks


def _written(folder: Path, masks: NDArray[Any], kind: str, syntax: str) -> tuple[Path, list[Path]]:
    """The segmentation that highdicom writes for a CT series, empty planes left out."""
    files = series(folder / "ct", volume_of(SHAPE), PLACES)
    describe = highdicom.seg.SegmentDescription
    segments = [
        describe(
            segment_number=i + 1,
            segment_label=f"organ {i + 1}",
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for i in range(masks.shape[-1])
    ]
    sources = sorted((pydicom.dcmread(f) for f in files), key=lambda d: d.ImagePositionPatient[2])
    seg = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid="1.2.55",
        series_number=2,
        sop_instance_uid="1.2.56",
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="n",
        software_versions="1",
        device_serial_number="0",
        transfer_syntax_uid=syntax,
        omit_empty_frames=True,
    )
    return save(seg, folder / "seg.dcm"), files


def _expect(labels: Any, masks: NDArray[np.bool_], names: int = 3) -> None:
    for i in range(names):
        found = np.logical_or.reduce([m == i + 1 for m in labels.maps])
        np.testing.assert_array_equal(found, masks[..., i], err_msg=f"segment {i + 1}")
    assert labels.label_names == {i + 1: f"organ {i + 1}" for i in range(names)}
    assert not any(SECRET in note for note in labels.notes)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
@pytest.mark.parametrize("overlap", [False, True])
def test_written_by_highdicom(tmp_path: Path, kind: str, overlap: bool) -> None:
    masks = _masks(overlap)
    path, files = _written(tmp_path, masks.astype(np.uint8), kind, ExplicitVRLittleEndian)
    like = read_series(files)
    labels = read_labels(path, like=like)
    assert len(labels.maps) == 1 + overlap
    assert labels.geometry == like.geometry
    _expect(labels, masks)
    alone = read_labels(path)
    assert alone.has_geometry
    np.testing.assert_allclose(alone.geometry.origin_mm, like.geometry.origin_mm)
    np.testing.assert_allclose(alone.geometry.spacing_mm, like.geometry.spacing_mm)
    _expect(alone, masks)


def test_label_map_written_by_highdicom(tmp_path: Path) -> None:
    masks = _masks()
    path, files = _written(tmp_path, masks.astype(np.uint8), "LABELMAP", RLELossless)
    _expect(read_labels(path, like=read_series(files)), masks)


def _frames(order: list[tuple[int, int]]) -> list[tuple[int, Any, NDArray[np.uint8]]]:
    masks = _masks().astype(np.uint8)
    return [(segment, PLACES[z], masks[z, ..., segment - 1]) for z, segment in order]


def test_frames_in_any_order_and_missing_planes(tmp_path: Path) -> None:
    order = [(4, 2), (1, 1), (2, 2), (3, 1), (2, 1), (3, 2)]
    path = save(segmentation(_frames(order), "BINARY"), tmp_path / "seg.dcm")
    labels = read_labels(path)
    assert labels.maps[0].shape == (4, 6, 7)  # from the first to the last frame
    assert labels.geometry.origin_mm == PLACES[1]
    np.testing.assert_array_equal(labels.maps[0] == 2, _masks()[1:, ..., 1])
    path = save(segmentation(_frames([(0, 3), (4, 2), (1, 1)]), "BINARY"), tmp_path / "b.dcm")
    labels = read_labels(path)
    assert labels.maps[0].shape == (5, 6, 7)
    assert "2 slices without a frame are background" in labels.notes


def test_fractions_count_from_one_half(tmp_path: Path) -> None:
    values = np.array([[0, 49, 50, 51, 100, 1]], np.uint8)
    path = save(segmentation([(1, PLACES[0], values)], largest=100), tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_labels(path).maps[0][0], [[0, 0, 1, 1, 1, 0]])
    path = save(segmentation([(1, PLACES[0], values)], largest=99), tmp_path / "odd.dcm")
    np.testing.assert_array_equal(read_labels(path).maps[0][0], [[0, 0, 1, 1, 1, 0]])


def _like(origin: Any = PLACES[0], spacing: Any = (2.0, 0.5, 0.25), shape: Any = SHAPE) -> Volume:
    x, y, z = (float(value) for value in origin)
    return Volume(np.zeros(shape, np.int16), Geometry(spacing, (x, y, z)))


def test_cropped_frames_are_put_where_they_belong(tmp_path: Path) -> None:
    path = save(segmentation(_frames([(1, 1), (2, 1)]), "BINARY"), tmp_path / "seg.dcm")
    x, y, z = PLACES[0]
    like = _like((x - 0.25 * 3, y - 0.5 * 2, z - 2.0), shape=(9, 20, 30))
    labels = read_labels(path, like=like)
    expected = np.zeros((9, 20, 30), np.uint8)
    expected[2:4, 2:8, 3:10] = _masks()[1:3, ..., 0]
    np.testing.assert_array_equal(labels.maps[0], expected)
    smaller = read_labels(path, like=_like((x + 0.5, y + 1.0, z), shape=(5, 3, 3)))
    np.testing.assert_array_equal(smaller.maps[0][1:3], _masks()[1:3, 2:5, 2:5, 0])
    assert any("reach beyond the image" in note for note in smaller.notes)


@pytest.mark.parametrize(
    "like",
    [
        _like((-9.9, 20.0, 5.0)),
        _like((-10.0, 20.0, 6.0)),
        _like(spacing=(2.0, 0.5, 0.3)),
        _like(spacing=(4.0, 0.5, 0.25)),
    ],
)
def test_another_grid_is_left_to_the_caller(tmp_path: Path, like: Volume) -> None:
    path = save(segmentation(_frames([(1, 1), (2, 1)]), "BINARY"), tmp_path / "seg.dcm")
    labels = read_labels(path, like=like)
    assert labels.geometry.origin_mm == PLACES[1]
    assert labels.geometry.spacing_mm == (2.0, 0.5, 0.25)


def test_uneven_frames_and_frames_without_a_place(tmp_path: Path) -> None:
    masks = _masks().astype(np.uint8)
    odd = [(1, (0.0, 0.0, z), masks[1, ..., 0]) for z in (0.0, 2.0, 5.0)]
    with pytest.raises(UserError, match="uneven distances"):
        read_labels(save(segmentation(odd), tmp_path / "a.dcm"))
    shifted = [(1, (z, 0.0, z), masks[1, ..., 0]) for z in (0.0, 2.0)]
    with pytest.raises(UserError, match="shifted sideways"):
        read_labels(save(segmentation(shifted), tmp_path / "b.dcm"))
    for count in (1, 2):
        flat = segmentation([(1, (0, 0, 0), masks[1, ..., 0] * 255)] * count)
        for frame in flat.PerFrameFunctionalGroupsSequence:
            del frame.PlanePositionSequence
        path = save(flat, tmp_path / f"{count}.dcm")
        if count == 2:
            with pytest.raises(UserError, match="do not say where they lie"):
                read_labels(path)
        else:
            labels = read_labels(path)
            assert not labels.has_geometry
            np.testing.assert_array_equal(labels.maps[0][0], masks[1, ..., 0])


def test_other_objects_and_empty_segments(tmp_path: Path) -> None:
    path = save(put_pixels(base(), volume_of()[0]), tmp_path / "ct.dcm")
    with pytest.raises(UserError, match="neither a DICOM segmentation nor"):
        read_labels(path)
    empty = segmentation(_frames([(1, 1), (1, 3)]), "BINARY")
    assert "segment 'part 3' is empty" in read_labels(save(empty, tmp_path / "e.dcm")).notes
    nameless = segmentation(_frames([(1, 1)]))
    nameless.SegmentSequence = []
    with pytest.raises(UserError, match="names no segment"):
        read_labels(save(nameless, tmp_path / "n.dcm"))


def test_frames_described_are_those_declared(tmp_path: Path) -> None:
    broken = segmentation(_frames([(1, 1), (2, 1)]))
    broken.NumberOfFrames = 3
    with pytest.raises(UserError, match="declares 3 frames and describes 2"):
        read_labels(save(broken, tmp_path / "n.dcm"))


def test_bits_that_do_not_begin_with_a_byte(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 2, (5, 7, 9)).astype(np.uint8)
    frames = [(1, (0.0, 0.0, 2.0 * z), plane) for z, plane in enumerate(volume)]
    path = save(segmentation(frames, "BINARY"), tmp_path / "bits.dcm")
    assert np.array_equal(pydicom.dcmread(path).pixel_array, volume)
    assert np.array_equal(read_labels(path).maps[0], volume)
