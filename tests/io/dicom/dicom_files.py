"""Tiny DICOM files, written with pydicom, highdicom and GDCM; tests import the builders."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    SegmentationStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from medsam2_ft.errors import UserError
from medsam2_ft.io.dicom import read_series

SECRET = "Doe^Jane"  # must never show in a note or an error
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def base(sop_class: str = CTImageStorage, modality: str = "CT", series: str = "1.2.3") -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta, dataset.preamble = meta, b"\0" * 128
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality = modality
    dataset.PatientName = SECRET
    dataset.PatientID = SECRET
    dataset.PatientBirthDate = "19700101"
    dataset.PatientSex = "F"
    dataset.StudyDate = dataset.SeriesDate = "20200102"
    dataset.StudyTime = dataset.SeriesTime = "101500"
    dataset.AccessionNumber = dataset.StudyID = ""
    dataset.StudyInstanceUID = "1.2.3.4"
    dataset.SeriesInstanceUID = series
    dataset.FrameOfReferenceUID = "1.2.9"
    dataset.SeriesNumber = 7
    return dataset


def put_pixels(dataset: Dataset, array: NDArray[Any], photometric: str = "MONOCHROME2") -> Dataset:
    """``(y, x)``, ``(y, x, 3)``; with ``NumberOfFrames`` set, one more axis in front."""
    bits = 8 * array.dtype.itemsize
    spatial = array.shape[1:] if "NumberOfFrames" in dataset else array.shape
    dataset.Rows, dataset.Columns = spatial[0], spatial[1]
    dataset.SamplesPerPixel = spatial[2] if len(spatial) == 3 else 1
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def image(
    array: NDArray[Any],
    position: Sequence[float] | None = (0.0, 0.0, 0.0),
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = (0.5, 0.25),
    **options: Any,
) -> Dataset:
    dataset = base(**options)
    if position is not None:
        dataset.ImagePositionPatient = [f"{value:.10g}"[:16] for value in position]
        dataset.ImageOrientationPatient = [f"{value:.10g}"[:16] for value in orientation]
    dataset.PixelSpacing = list(spacing)
    dataset.SliceThickness = "2"
    dataset.InstanceNumber = 1
    return put_pixels(dataset, array)


def series(
    folder: Path,
    volume: NDArray[Any],
    positions: Sequence[Sequence[float]],
    change: Callable[[int, Dataset], None] = lambda z, dataset: None,
    **options: Any,
) -> list[Path]:
    """One file for each slice; names and instance numbers say nothing of the order in space."""
    paths = []
    order = np.random.default_rng(5).permutation(len(volume))
    for z, (plane, position) in enumerate(zip(volume, positions, strict=True)):
        dataset = image(plane, position, **options)
        dataset.InstanceNumber = int(order[z]) + 1
        change(z, dataset)
        paths.append(save(dataset, folder / f"I{int(order[z]):04d}"))
    return paths


def along_z(count: int, step: float = 2.0) -> list[tuple[float, float, float]]:
    return [(-10.0, 20.0, 5.0 + step * z) for z in range(count)]


def volume_of(
    shape: tuple[int, ...] = (5, 6, 7), dtype: Any = np.int16, seed: int = 0
) -> NDArray[Any]:
    low, high = (-1000, 2000) if np.dtype(dtype) == np.int16 else (0, 250)
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def enhanced(
    volume: NDArray[Any],
    positions: Sequence[Sequence[float]],
    modality: str = "CT",
    slopes: Sequence[float] | None = None,
) -> Dataset:
    dataset = base(ENHANCED_CT, modality)
    dataset.NumberOfFrames = len(volume)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.25], 2.0
    plane.ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence = DicomSequence([measures])
    shared.PlaneOrientationSequence = DicomSequence([plane])
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    frames = []
    for z, position in enumerate(positions):
        frame, place, value = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = list(position)
        frame.PlanePositionSequence = DicomSequence([place])
        value.RescaleSlope = 1.0 if slopes is None else slopes[z]
        value.RescaleIntercept = 0.0
        frame.PixelValueTransformationSequence = DicomSequence([value])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    return put_pixels(dataset, volume)


def cine(volume: NDArray[Any], photometric: str = "RGB") -> Dataset:
    dataset = base(UltrasoundMultiFrameImageStorage, "US")
    dataset.NumberOfFrames = len(volume)
    dataset.FrameTime = "40"
    return put_pixels(dataset, volume, photometric)


def structure_set(rois: Sequence[tuple[int, str, Sequence[tuple[str, Any]]]]) -> Dataset:
    """(number, name, [(geometric type, (n, 3) world points), ...]) for each ROI."""
    dataset = base(RTStructureSetStorage, "RTSTRUCT", "1.2.77")
    named, drawn = [], []
    for number, name, contours in rois:
        roi, contour_item, shapes = Dataset(), Dataset(), []
        roi.ROINumber, roi.ROIName = number, name
        contour_item.ReferencedROINumber = number
        for kind, points in contours:
            shape = Dataset()
            shape.ContourGeometricType = kind
            shape.NumberOfContourPoints = len(points)
            shape.ContourData = [f"{v:.9g}" for v in np.asarray(points).ravel()]
            shapes.append(shape)
        contour_item.ContourSequence = DicomSequence(shapes)
        named.append(roi)
        drawn.append(contour_item)
    dataset.StructureSetROISequence = DicomSequence(named)
    dataset.ROIContourSequence = DicomSequence(drawn)
    reference, study, one = Dataset(), Dataset(), Dataset()
    one.SeriesInstanceUID = "1.2.3"
    study.RTReferencedSeriesSequence = DicomSequence([one])
    reference.FrameOfReferenceUID = "1.2.9"
    reference.RTReferencedStudySequence = DicomSequence([study])
    dataset.ReferencedFrameOfReferenceSequence = DicomSequence([reference])
    return dataset


def segmentation(
    frames: Sequence[tuple[int, Sequence[float], NDArray[Any]]],
    kind: str = "FRACTIONAL",
    spacing: Sequence[float] = (0.5, 0.25),
    largest: int = 255,
) -> Dataset:
    """(segment, position, ``(y, x)`` uint8 values) for each frame, in this order."""
    dataset = base(SegmentationStorage, "SEG", "1.2.88")
    dataset.NumberOfFrames = len(frames)
    dataset.SegmentationType = kind
    if kind == "FRACTIONAL":
        dataset.MaximumFractionalValue = largest
        dataset.SegmentationFractionalType = "PROBABILITY"
    segments = []
    for number in sorted({segment for segment, _, _ in frames}):
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, f"part {number}"
        segments.append(segment)
    dataset.SegmentSequence = DicomSequence(segments)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(spacing), 2.0
    plane.ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence = DicomSequence([measures])
    shared.PlaneOrientationSequence = DicomSequence([plane])
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    groups = []
    for number, position, _ in frames:
        frame, place, which = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = list(position)
        which.ReferencedSegmentNumber = number
        frame.PlanePositionSequence = DicomSequence([place])
        frame.SegmentIdentificationSequence = DicomSequence([which])
        groups.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    reference = Dataset()
    reference.SeriesInstanceUID = "1.2.3"
    dataset.ReferencedSeriesSequence = DicomSequence([reference])
    values = np.stack([value for _, _, value in frames])
    put_pixels(dataset, values)
    if kind == "BINARY":
        dataset.BitsAllocated = dataset.BitsStored = 1
        dataset.HighBit = 0
        packed = np.packbits(values.astype(bool).ravel(), bitorder="little").tobytes()
        dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    return dataset


def refused(files: Path | list[Path], match: str) -> str:
    """Reads an image that must end in one line, which names no patient; returns the line."""
    with pytest.raises(UserError, match=match) as caught:
        read_series([files] if isinstance(files, Path) else files)
    line = str(caught.value)
    assert "\n" not in line
    assert SECRET not in line
    return line
