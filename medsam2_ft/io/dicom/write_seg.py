"""Writes DICOM segmentations (SEG) of an image series, with highdicom.

Patient, study and frame of reference are those of the series, and every frame refers to the image
that it was drawn on. Segments are BINARY and may overlap.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medsam2_ft import __version__
from medsam2_ft.errors import UserError
from medsam2_ft.intensity import label_ids
from medsam2_ft.io.atomic import atomic_path
from medsam2_ft.io.checks import as_label_map, check_disjoint_ids
from medsam2_ft.io.dicom.files import damaged_as_user_error, open_dataset
from medsam2_ft.io.dicom.header import read_image_header
from medsam2_ft.io.dicom.stack import Stack, stack_planes
from medsam2_ft.types import LabelVolume

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

_MANUFACTURER = "medsam2-ft"
_SERIES_NUMBER = 900
_LONG_STRING = 64
# Type 2 of patient and study: they may be empty, and highdicom wants them to be there.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_SEXES = ("M", "F", "O")
_REFUSED = (ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError)


@dataclass(frozen=True)
class Author:
    """What made the segments.

    Attributes:
        model: Name of the model.
        colors: RGB of the segments in the order of their ids; repeated where there are more.
    """

    model: str
    colors: Sequence[tuple[int, int, int]]


def write_dicom_seg(
    path: Path, labels: LabelVolume, files: Sequence[Path], author: Author
) -> dict[int, int]:
    """Writes labels as segments of the series that they were made from. Atomic.

    Segment numbers must count from 1 without a gap, so that ids are numbered anew in ascending
    order; labels are the names, or ``Object <id>``. Ids that have a name and no voxel are segments
    without frames. An object of which nothing is known but its box is called tissue, as 3D Slicer
    does by default.

    Args:
        path: Target ending in .dcm.
        labels: On the grid of the series as ``read_series`` gives it.
        files: The DICOM files of the image.
        author: What made it.

    Returns:
        The segment number of every id.

    Raises:
        UserError: highdicom is not installed; nothing to write; labels of another grid; or a
            series that a segmentation cannot refer to.
    """
    highdicom = require_highdicom()
    where = files[0] if len(files) == 1 else files[0].parent
    maps = [as_label_map(f"{path}: map {i}", m) for i, m in enumerate(labels.maps)]
    check_disjoint_ids(str(path), maps)
    present = {label for label_map in maps for label in label_ids(label_map)}
    ids = sorted(present | {label for label in labels.label_names if label > 0})
    if not present:
        raise UserError(
            f"{path}: no object has a voxel, and DICOM SEG cannot be empty; give other prompts, or "
            "another format"
        )
    numbers = {label: number for number, label in enumerate(ids, start=1)}
    headers = [read_image_header(Path(file)) for file in files]
    stack = stack_planes(where, [plane for header in headers for plane in header.planes])
    sources, pixels = _aligned(where, stack, _numbered(maps, numbers))
    descriptions = _descriptions(highdicom, labels, numbers, author)
    with _as_user_error(where):
        segmentation = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=pixels,
            segmentation_type="BINARY",
            segment_descriptions=descriptions,
            series_instance_uid=highdicom.UID(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=_MANUFACTURER,
            manufacturer_model_name=author.model[:_LONG_STRING],
            software_versions=__version__,
            device_serial_number="none",
            series_description=f"Segmentation by {author.model}"[:_LONG_STRING],
        )
        with atomic_path(path) as temporary:
            segmentation.save_as(temporary, enforce_file_format=True)
    return numbers


def require_highdicom() -> Any:
    """Returns the package.

    Raises:
        UserError: It is not installed.
    """
    try:
        import highdicom
    except ImportError as error:
        raise UserError(
            "writing DICOM SEG needs highdicom, which is not installed; run: pip install "
            "'medsam2-ft[dicom]'"
        ) from error
    return highdicom


@contextmanager
def _as_user_error(where: Path) -> Iterator[None]:
    """Turns what highdicom finds wrong with a series into a UserError; warnings quote values."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except _REFUSED as error:
        # an AttributeError names a missing element and no value
        detail = f": {error}" if isinstance(error, AttributeError) else ""
        raise UserError(
            f"{where}: no DICOM SEG can refer to this series ({type(error).__name__}{detail}); "
            "choose .nii.gz or .seg.nrrd"
        ) from error


def _numbered(maps: Sequence[NDArray[Any]], numbers: dict[int, int]) -> NDArray[Any]:
    """One map of segment numbers ``(z, y, x)``; a mask of each ``(z, y, x, n)`` for overlaps."""
    if len(maps) > 1:
        masks = np.zeros((*maps[0].shape, len(numbers)), np.uint8)
        for label_map in maps:
            for label in label_ids(label_map):
                masks[..., numbers[label] - 1] = label_map == label
        return masks
    table = np.zeros(max(numbers) + 1, np.uint8 if len(numbers) <= 255 else np.uint16)
    for label, number in numbers.items():
        table[label] = number
    return np.take(table, maps[0])


def _aligned(where: Path, stack: Stack, pixels: NDArray[Any]) -> tuple[list[Dataset], NDArray[Any]]:
    """The images in the order of the slices, and the slices in the order of the images."""
    rows, columns = stack.slices[0][0].shape[:2]
    if pixels.shape[:3] != (len(stack.slices), rows, columns):
        raise UserError(
            f"{where}: has {len(stack.slices)} slices of {rows} x {columns} pixels and the labels "
            f"{pixels.shape[:3]} (z, y, x); give the series that they were made from"
        )
    chosen = [planes[0] for planes in stack.slices]
    paths = list(dict.fromkeys(plane.path for plane in chosen))
    sources = [_source(path) for path in paths]
    if len(paths) == len(chosen):
        return sources, pixels
    if len(paths) > 1:
        raise UserError(
            f"{where}: the image is spread over {len(paths)} files of several frames, to which a "
            "DICOM SEG cannot refer; choose .nii.gz or .seg.nrrd"
        )
    count = int(sources[0].NumberOfFrames)
    frames = np.zeros((count, *pixels.shape[1:]), pixels.dtype)
    frames[[plane.frame for plane in chosen]] = pixels
    return sources, frames


def _source(path: Path) -> Dataset:
    dataset = open_dataset(path)
    with damaged_as_user_error(path, "header"):
        for keyword in _MAY_BE_EMPTY:
            if keyword not in dataset:
                setattr(dataset, keyword, "")
        if dataset.PatientSex not in _SEXES:  # highdicom refuses others
            dataset.PatientSex = ""
    return dataset


def _segment_label(labels: LabelVolume, label: int) -> str:
    """The name of a label; a backslash would make it two values."""
    name = str(labels.label_names.get(label) or f"Object {label}")
    return " ".join(name.replace("\\", "/").split())[:_LONG_STRING]


def _descriptions(
    highdicom: Any, labels: LabelVolume, numbers: dict[int, int], author: Author
) -> list["SegmentDescription"]:
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=author.model[:_LONG_STRING],
        family=codes.DCM.ArtificialIntelligence,
        version=__version__,
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=_segment_label(labels, label),
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type="SEMIAUTOMATIC",  # a person gave the prompt
            algorithm_identification=algorithm,
            tracking_uid=highdicom.UID(),
            tracking_id=f"Object {label}",
            display_color=highdicom.color.CIELabColor.from_rgb(
                *author.colors[(number - 1) % len(author.colors)]
            ),
        )
        for label, number in numbers.items()
    ]
