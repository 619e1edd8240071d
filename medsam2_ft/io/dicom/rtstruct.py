"""Reads contours of a structure set (RTSTRUCT) onto the grid of an image.

Contours are placed by their coordinates. The image UIDs that a contour names are not looked at:
they are often absent, or those of another series, and coordinates are what a reader sees.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medsam2_ft.errors import UserError
from medsam2_ft.io.checks import MAX_LABEL_ID
from medsam2_ft.io.dicom.files import (
    AnyTag,
    damaged_as_user_error,
    integer,
    items,
    open_dataset,
    text,
)
from medsam2_ft.io.dicom.polygons import toggle_polygon
from medsam2_ft.io.npz_zip import check_size
from medsam2_ft.io.pack import pack_masks
from medsam2_ft.types import Geometry, LabelVolume, Volume

_TAGS: tuple[AnyTag, ...] = ("SOPClassUID", "StructureSetROISequence", "ROIContourSequence")
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_LARGEST_SLANT = 0.5  # slices
_SAME_PLANE = 0.01  # slices
_FARTHEST_MM = 1e6  # no patient reaches further, and nothing overflows


@dataclass
class _Region:
    """One ROI: closed contours in pixel coordinates of the image, and what was left out."""

    label: int
    name: str
    contours: list[NDArray[np.float64]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    beyond: int = 0


def read_rtstruct(path: Path, like: Volume) -> LabelVolume:
    """Draws the ROIs of a structure set on the grid of an image.

    A pixel belongs to a ROI where its centre lies inside (even-odd, so that a contour within a
    contour makes a hole). A contour belongs to the nearest slice within half a slice; where
    several planes of contours meet in one slice, the nearest plane counts. Ids are the ROI
    numbers, names the ROI names.

    Raises:
        UserError: Damaged, no ROI, an image without geometry, or no contour lies on the image.
    """
    if not like.has_geometry:
        raise UserError(
            f"{path}: contours are in mm and the image does not say where it lies; give the image "
            "as DICOM, NIfTI or NRRD"
        )
    dataset = open_dataset(path, _TAGS)
    with damaged_as_user_error(path, "structure set"):
        regions = _regions(dataset, like.geometry)
    if not regions:
        raise UserError(f"{path}: the structure set names no ROI; give another file")
    shape = (like.array.shape[0], like.array.shape[1], like.array.shape[2])
    check_size(str(path), shape[0] * shape[1] * shape[2])
    placed = {region.label: _on_slices(region, shape) for region in regions}
    if not any(placed.values()):
        raise UserError(
            f"{path}: none of its {sum(len(r.contours) for r in regions)} closed contours lies on "
            "the image; give the image that it was drawn on"
        )
    empty: list[str] = []
    maps = pack_masks(shape, _masks(regions, placed, shape, empty))
    notes = [note for region in regions for note in _notes(region)]
    notes.extend(f"ROI {name!r} is empty on this image" for name in empty)
    names = {r.label: r.name for r in regions if r.name}
    return LabelVolume(maps, names, like.geometry, notes=tuple(notes))


def _regions(dataset: Dataset, geometry: Geometry) -> list[_Region]:
    """ROIs in the order of the file, with contours as ``(n, 3)`` x, y, z in pixels."""
    named = items(dataset, "StructureSetROISequence")
    numbers = [integer(item, "ROINumber", 0) for item in named]
    labels = _unique_labels(numbers)
    regions = [
        _Region(label, text(item, "ROIName")) for label, item in zip(labels, named, strict=True)
    ]
    by_number = dict(zip(reversed(numbers), reversed(regions), strict=True))
    to_pixels = _world_to_pixels(geometry)
    origin = np.array(geometry.origin_mm)
    for drawn in items(dataset, "ROIContourSequence"):
        region = by_number.get(integer(drawn, "ReferencedROINumber", 0))
        if region is None:
            continue
        for contour in items(drawn, "ContourSequence"):
            kind = text(contour, "ContourGeometricType")
            if kind not in _CLOSED:
                region.left_out[f"{kind[:24] or 'untyped'} contours, which enclose nothing,"] += 1
                continue
            points = _points(contour)
            if points is None:
                region.left_out["contours without three points or more in mm"] += 1
            else:
                region.contours.append((points - origin) @ to_pixels.T)
    return regions


def _unique_labels(numbers: Sequence[int]) -> list[int]:
    """ROI numbers, those that are no label id or come twice replaced by the next free one."""
    wanted = Counter(numbers)
    taken = {n for n, times in wanted.items() if 1 <= n <= MAX_LABEL_ID}
    labels: list[int] = []
    used: set[int] = set()
    free = 1
    for n in numbers:
        if n in used or n not in taken:
            while free in taken or free in used:
                free += 1
            n = free
        used.add(n)
        labels.append(n)
    return labels


def _points(contour: Dataset) -> NDArray[np.float64] | None:
    """World coordinates ``(n, 3)``; None where there are not three points or they are no mm.

    The text is parsed at once: pydicom makes an object of every number, 30 times slower.
    """
    if "ContourData" not in contour:
        return None
    element = contour.get_item("ContourData")
    value = getattr(element, "value", None)
    if isinstance(value, bytes):
        value = value.strip(b" \0").split(b"\\")
    if not value or isinstance(value, str):
        return None
    flat = np.array(value).astype(np.float64).ravel()
    if flat.size < 9 or flat.size % 3 or not (np.abs(flat) < _FARTHEST_MM).all():
        return None
    return flat.reshape(-1, 3)


def _world_to_pixels(geometry: Geometry) -> NDArray[np.float64]:
    direction = np.array(geometry.direction).reshape(3, 3)
    inverse: NDArray[np.float64] = np.linalg.inv(direction * geometry.spacing_mm[::-1])
    return inverse


def _on_slices(
    region: _Region, shape: tuple[int, int, int]
) -> dict[int, list[NDArray[np.float64]]]:
    """Contours of one ROI as ``(n, 2)`` x, y for each slice that has any."""
    planes: dict[int, dict[int, list[NDArray[np.float64]]]] = defaultdict(dict)
    for points in region.contours:
        z = points[:, 2]
        if np.ptp(z) > _LARGEST_SLANT:
            region.left_out["contours that are not parallel to the slices"] += 1
            continue
        middle = float(z.mean())
        index = int(np.rint(np.clip(middle, -1, shape[0])))
        if not 0 <= index < shape[0]:
            region.left_out["contours beyond the first or last slice"] += 1
            continue
        if (points[:, :2] < -1).any() or (points[:, :2] > (shape[2], shape[1])).any():
            region.beyond += 1
        level = round((middle - index) / _SAME_PLANE)
        planes[index].setdefault(level, []).append(points[:, :2])
    slices = {}
    for index, levels in planes.items():
        nearest = min(levels, key=abs)
        slices[index] = levels[nearest]
        others = sum(len(one) for level, one in levels.items() if level != nearest)
        if others:
            region.left_out["contours between slices, beside nearer ones,"] += others
    return slices


def _masks(
    regions: Sequence[_Region],
    placed: dict[int, dict[int, list[NDArray[np.float64]]]],
    shape: tuple[int, int, int],
    empty: list[str],
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yields the mask of each ROI; adds the names of those without a pixel to ``empty``."""
    for region in regions:
        mask = np.zeros(shape, np.bool_)
        for index, contours in placed[region.label].items():
            for points_xy in contours:
                toggle_polygon(mask[index], points_xy)
        if mask.any():
            yield region.label, mask
        else:
            empty.append(region.name or str(region.label))


def _notes(region: _Region) -> Iterator[str]:
    name = region.name or str(region.label)
    for reason, count in region.left_out.items():
        yield f"ROI {name!r}: {count} {reason} are left out"
    if region.beyond:
        yield f"ROI {name!r}: {region.beyond} contours reach beyond the image and are cut there"
