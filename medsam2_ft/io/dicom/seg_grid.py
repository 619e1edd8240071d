"""Where the frames of a segmentation lie on a grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.checks import check_geometry
from medsam2_ft.io.dicom.header import Plane
from medsam2_ft.io.dicom.stack import SAME_PLACE_MM, axes_of
from medsam2_ft.types import Geometry, Volume

_SAME_COSINE = 1e-3
_OFF_GRID_VOXELS = 0.05  # largest distance of a frame's corner from a voxel of the image
_UNEVEN_STEPS = 0.1


@dataclass(frozen=True)
class FrameGrid:
    """A grid, and the voxel (z, y, x) at which the first pixel of each frame lies.

    Attributes:
        shape: Extents (z, y, x).
        geometry: Where the grid lies.
        has_geometry: Whether the file says so.
        corners: For each frame; outside the grid where a frame reaches beyond it.
        notes: What was decided.
    """

    shape: tuple[int, int, int]
    geometry: Geometry
    has_geometry: bool
    corners: tuple[tuple[int, int, int], ...]
    notes: tuple[str, ...] = ()

    def paste(self, volume: NDArray[Any], frame: int, values: NDArray[Any]) -> None:
        """Adds the non-zero values of a frame to a volume; what lies outside is cut off."""
        z, y, x = self.corners[frame]
        if not 0 <= z < self.shape[0]:
            return
        height, width = values.shape
        inside = volume[z, max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
        part = values[max(-y, 0) :, max(-x, 0) :][: inside.shape[0], : inside.shape[1]]
        if volume.dtype == np.bool_:
            inside |= part
        else:
            np.copyto(inside, part, where=part != 0)


def place_on(planes: Sequence[Plane], like: Volume) -> FrameGrid | None:
    """Places frames on an image's grid; None where the two do not agree.

    They agree where orientation and spacing are equal and every corner of every frame lies within
    1/20 of a voxel of a voxel's centre, be it outside the image. A single frame without a position
    agrees with an image of its size and one slice.
    """
    shape = (like.array.shape[0], like.array.shape[1], like.array.shape[2])
    first = planes[0]
    if not all(plane.is_placed for plane in planes):
        alike = shape == (1, *first.shape[:2])
        flat = ((0, 0, 0),) * len(planes)
        return FrameGrid(shape, like.geometry, like.has_geometry, flat) if alike else None
    if not like.has_geometry or first.spacing_yx_mm is None:
        return None
    geometry = like.geometry
    to_voxels = np.linalg.inv(
        np.array(geometry.direction).reshape(3, 3) * geometry.spacing_mm[::-1]
    )
    corners = []
    for plane in planes:
        start = _to_voxels(plane, to_voxels, geometry, (0, 0))
        end = _to_voxels(plane, to_voxels, geometry, (plane.shape[0] - 1, plane.shape[1] - 1))
        corner = np.rint(start)
        extent = (0, plane.shape[0] - 1, plane.shape[1] - 1)
        if not max(np.abs(start - corner).max(), np.abs(end - corner - extent).max()) <= (
            _OFF_GRID_VOXELS
        ):
            return None
        corners.append((int(corner[0]), int(corner[1]), int(corner[2])))
    outside = sum(
        not 0 <= z < shape[0]
        or min(y, x) < 0
        or y + first.shape[0] > shape[1]
        or x + first.shape[1] > shape[2]
        for z, y, x in corners
    )
    notes = (f"{outside} frames reach beyond the image and are cut there",) if outside else ()
    return FrameGrid(shape, geometry, True, tuple(corners), notes)


def _to_voxels(
    plane: Plane, to_voxels: NDArray[np.float64], geometry: Geometry, pixel_yx: tuple[int, int]
) -> NDArray[np.float64]:
    """Voxel coordinates (z, y, x) of a pixel's centre."""
    rows = np.array(plane.orientation).reshape(2, 3)
    y_mm, x_mm = plane.spacing_yx_mm or (1.0, 1.0)
    world = (
        np.array(plane.position_mm) + rows[0] * pixel_yx[1] * x_mm + rows[1] * pixel_yx[0] * y_mm
    )
    voxel: NDArray[np.float64] = to_voxels @ (world - geometry.origin_mm)
    return voxel[::-1]


def own_grid(path: Path, planes: Sequence[Plane]) -> FrameGrid:
    """Makes the smallest grid that holds all frames; planes without a frame are background.

    Raises:
        UserError: Frames differ in orientation, size or spacing, are shifted sideways, or lie at
            uneven distances.
    """
    first = planes[0]
    rows, columns = first.shape[:2]
    if not all(plane.is_placed for plane in planes):
        return _flat_grid(path, planes)
    if any(not _is_alike(first, plane) for plane in planes) or first.spacing_yx_mm is None:
        raise UserError(
            f"{path}: its frames differ in orientation, size or spacing; export it again on one "
            "grid, for example with 3D Slicer"
        )
    axes = axes_of(path, first)
    inside = np.array([plane.position_mm for plane in planes]) @ axes
    spacing_xy = np.array(first.spacing_yx_mm[::-1])
    if (np.ptp(inside[:, :2], axis=0) > _OFF_GRID_VOXELS * spacing_xy).any():
        raise UserError(f"{path}: its frames are shifted sideways; give the image that it is of")
    places = np.unique(inside[:, 2])
    gaps = np.diff(places)
    gaps = gaps[gaps > SAME_PLACE_MM]
    step = _step(path, gaps) if gaps.size else first.thickness_mm or 1.0
    index = (inside[:, 2] - places[0]) / step
    if np.abs(index - np.rint(index)).max() > _UNEVEN_STEPS:
        raise UserError(
            f"{path}: its frames lie at uneven distances; give the image that it is of, or export "
            "it again on one grid"
        )
    depth = int(np.rint(index.max())) + 1
    lowest = planes[int(inside[:, 2].argmin())]
    y, x = first.spacing_yx_mm
    geometry = check_geometry(str(path), (x, y, step), lowest.position_mm or (), axes.ravel())
    corners = tuple((int(z), 0, 0) for z in np.rint(index))
    empty = depth - len(set(corners))
    notes = (f"{empty} slices without a frame are background",) if empty else ()
    return FrameGrid((depth, rows, columns), geometry, True, corners, notes)


def _step(path: Path, gaps: NDArray[np.float64]) -> float:
    """The distance of which all gaps are multiples, made precise over the whole extent."""
    smallest = float(gaps.min())
    counts = np.rint(gaps / smallest)
    return float(gaps.sum() / counts.sum())


def _flat_grid(path: Path, planes: Sequence[Plane]) -> FrameGrid:
    """Frames without a position, all of one 2D image."""
    if any(plane.is_placed for plane in planes):
        raise UserError(f"{path}: only some of its frames say where they lie; export it again")
    rows, columns = planes[0].shape[:2]
    y, x = planes[0].spacing_yx_mm or (1.0, 1.0)
    geometry = check_geometry(str(path), (x, y, 1.0))
    return FrameGrid((1, rows, columns), geometry, False, ((0, 0, 0),) * len(planes))


def _is_alike(a: Plane, b: Plane) -> bool:
    return (
        a.shape == b.shape
        and np.allclose(a.orientation or (), b.orientation or (), rtol=0, atol=_SAME_COSINE)
        and np.allclose(a.spacing_yx_mm or (), b.spacing_yx_mm or (), rtol=_SAME_COSINE)
    )
