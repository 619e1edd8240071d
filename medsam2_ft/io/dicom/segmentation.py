"""Reads DICOM segmentations (SEG): binary, fractional and label map.

A frame holds one segment at one place. Frames are placed by their positions, on the image's grid
where the two grids agree and otherwise on a grid of their own, so that nothing is shifted by a
part of a voxel unseen. Segments are decoded one after the other.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import label_ids
from medsam2_ft.io.checks import MAX_LABEL_ID
from medsam2_ft.io.dicom.files import (
    AnyTag,
    damaged_as_user_error,
    integer,
    items,
    open_dataset,
    text,
)
from medsam2_ft.io.dicom.header import Plane, planes_of
from medsam2_ft.io.dicom.pixels import PIXEL_TAGS, stored_frames
from medsam2_ft.io.dicom.seg_grid import FrameGrid, own_grid, place_on
from medsam2_ft.io.npz_zip import check_size
from medsam2_ft.io.pack import pack_masks
from medsam2_ft.types import LabelVolume, Volume

_TAGS: tuple[AnyTag, ...] = (
    *PIXEL_TAGS,
    "SegmentationType",
    "MaximumFractionalValue",
    "SegmentSequence",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "TotalPixelMatrixColumns",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)


@dataclass(frozen=True)
class _Segmentation:
    """A parsed file.

    Attributes:
        path: The file.
        dataset: With its pixel data, which is not decoded yet.
        planes: Its frames.
        segments: Segment number of each frame; None for a label map, whose values say it.
        names: Labels of the segments.
        threshold: Smallest stored value that is foreground.
    """

    path: Path
    dataset: Dataset
    planes: tuple[Plane, ...]
    segments: tuple[int, ...] | None
    names: Mapping[int, str]
    threshold: int


def read_segmentation(path: Path, like: Volume | None = None) -> LabelVolume:
    """Reads a segmentation.

    Ids are the segment numbers, names the segment labels. A fractional value counts from half of
    the largest value on. Segments that overlap go to further maps.

    Args:
        path: The file.
        like: The image whose grid is taken, where the frames lie on it to 1/20 of a voxel.

    Raises:
        UserError: Damaged, no segment, frames that make no grid, or beyond the size limit.
    """
    seg = _open(path)
    grid = place_on(seg.planes, like) if like is not None else None
    if grid is None:
        grid = own_grid(path, seg.planes)
    drawn = [0] * len(seg.planes) if seg.segments is None else seg.segments
    if not seg.planes[0].is_placed and len(set(drawn)) < len(drawn):
        raise UserError(
            f"{path}: its frames do not say where they lie, nor to which image they belong; "
            "export it again with positions"
        )
    check_size(str(path), grid.shape[0] * grid.shape[1] * grid.shape[2])
    notes = list(grid.notes)
    empty = set(seg.names)
    if seg.segments is None:
        maps = _label_map(seg, grid)
        empty -= set(label_ids(maps[0]))
    else:
        maps = pack_masks(grid.shape, _masks(seg, seg.segments, grid, empty))
    notes.extend(f"segment {seg.names[label]!r} is empty" for label in sorted(empty))
    return LabelVolume(maps, seg.names, grid.geometry, grid.has_geometry, tuple(notes))


def _open(path: Path) -> _Segmentation:
    dataset = open_dataset(path, _TAGS, with_pixels=True)
    with damaged_as_user_error(path, "segmentation"):
        planes = tuple(planes_of(path, dataset))
        names = {
            integer(item, "SegmentNumber", 0): text(item, "SegmentLabel")
            for item in items(dataset, "SegmentSequence")
        }
        kind = text(dataset, "SegmentationType")
        is_map = kind == "LABELMAP"
        segments = None if is_map else _segments(dataset)
        threshold = 1
        if kind == "FRACTIONAL":
            threshold = -(-integer(dataset, "MaximumFractionalValue", 255) // 2)
    names.pop(0, None)  # background of a label map
    numbers = set(names) | set(segments or ())
    if not names or len(planes) != len(segments or planes):
        raise UserError(f"{path}: names no segment, or not that of every frame; copy it again")
    if min(numbers) < 1 or max(numbers) > MAX_LABEL_ID or any(p.shape[2] != 1 for p in planes):
        raise UserError(f"{path}: its segment numbers or frames are impossible; copy it again")
    return _Segmentation(path, dataset, planes, segments, names, threshold)


def _segments(dataset: Dataset) -> tuple[int, ...]:
    """Segment number of every frame, of the frame's own group or of the shared one."""
    shared = items(dataset, "SharedFunctionalGroupsSequence")
    frames = items(dataset, "PerFrameFunctionalGroupsSequence")
    found = []
    for groups in frames:
        sources = (*items(groups, "SegmentIdentificationSequence"),)
        for group in shared:
            sources += (*items(group, "SegmentIdentificationSequence"),)
        found.append(integer(sources[0], "ReferencedSegmentNumber", 0) if sources else 0)
    return tuple(found)


def _masks(
    seg: _Segmentation, segments: Sequence[int], grid: FrameGrid, empty: set[int]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yields one mask on the grid for each segment that has frames, by segment number.

    Takes those that have a voxel out of ``empty``.
    """
    frames: dict[int, list[int]] = defaultdict(list)
    for frame, segment in enumerate(segments):
        frames[segment].append(frame)
    for segment in sorted(frames):
        mask = np.zeros(grid.shape, np.bool_)
        for frame, stored in _decoded(seg, frames[segment]):
            grid.paste(mask, frame, stored >= seg.threshold)
        if mask.any():
            empty.discard(segment)
        yield segment, mask


def _label_map(seg: _Segmentation, grid: FrameGrid) -> tuple[NDArray[Any], ...]:
    dtype = np.uint8 if max(seg.names) <= 255 else np.uint16
    labels = np.zeros(grid.shape, dtype)
    for frame, stored in _decoded(seg, range(len(seg.planes))):
        if stored.dtype.kind != "u" or stored.max() > np.iinfo(dtype).max:
            raise UserError(f"{seg.path}: holds values that are no segment; copy it again")
        grid.paste(labels, frame, stored.astype(dtype))
    return (labels,)


def _decoded(seg: _Segmentation, frames: Sequence[int]) -> Iterator[tuple[int, NDArray[Any]]]:
    for frame, stored in stored_frames(seg.path, seg.dataset, frames):
        if stored.shape != seg.planes[frame].shape[:2]:
            raise UserError(f"{seg.path}: its pixels have another size; copy it again")
        yield frame, stored
