"""Between Slicer's world and the voxels that the server knows. numpy alone.

Arrays are ``(k, j, i)``; points of a volume are ``(i, j, k)``, whole numbers at voxel centres. A
slice is ``(axis, index)`` with axis 0 = k, 1 = j, 2 = i; its pixels are the other two axes in array
order, so that x counts columns and y rows. docs/protocol.md has the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MOST_TILT_DEGREES = 1.0
"""A view that is tilted more against the volume shows parts of several slices."""


class GeometryError(ValueError):
    """A prompt that does not fit the volume; says what to do, one line."""


@dataclass(frozen=True)
class Slice:
    """One slice of a volume.

    Attributes:
        axis: 0 is k, 1 is j, 2 is i.
        index: Along it.
    """

    axis: int
    index: int


def ijk_to_lps(ijk_to_ras: NDArray[Any]) -> list[list[float]]:
    """Returns the matrix that the server wants, as rows."""
    rows: list[list[float]] = (LPS_FROM_RAS @ np.asarray(ijk_to_ras, np.float64)).tolist()
    return rows


def in_plane(axis: int) -> tuple[int, int]:
    """Returns which of ``(i, j, k)`` are x and y of the slices along an axis."""
    rows, columns = (other for other in range(3) if other != axis)
    return 2 - columns, 2 - rows


def slice_of_plane(
    point_ijk: NDArray[Any],
    sides_ijk: NDArray[Any],
    voxel_mm: Sequence[float],
    shape: Sequence[int],
) -> Slice:
    """Says which slice a view shows.

    Args:
        point_ijk: A point of the view's plane.
        sides_ijk: (2, 3), the view's two in-plane directions in voxels.
        voxel_mm: Length of a voxel along i, j, k.
        shape: Of the volume, ``(k, j, i)``.

    Raises:
        GeometryError: The view is tilted against the volume, or shows what lies beside it.
    """
    size = np.asarray(voxel_mm, np.float64)
    sides = np.asarray(sides_ijk, np.float64) * size
    normal = np.cross(sides[0], sides[1])
    normal /= np.linalg.norm(normal)
    along = int(np.argmax(np.abs(normal)))
    tilt = float(np.degrees(np.arccos(min(1.0, abs(normal[along])))))
    if tilt > MOST_TILT_DEGREES:
        raise GeometryError(
            f"The view is tilted by {tilt:.0f} degrees against the volume: press 'Align views'."
        )
    index = int(np.floor(float(point_ijk[along]) + 0.5))
    axis = 2 - along
    if not 0 <= index < shape[axis]:
        raise GeometryError("The view shows no slice of the volume: scroll into it.")
    return Slice(axis, index)


def box_of_corners(corners_ijk: NDArray[Any], shape: Sequence[int]) -> NDArray[np.int64]:
    """Returns the voxels around which corners lie.

    Args:
        corners_ijk: (n, 3), all corners: with an oblique box or a transform, any of them may be
            the outermost.
        shape: Of the volume, ``(k, j, i)``.

    Returns:
        (2, 3): first and last voxel ``(i, j, k)``, inclusive: those whose centre lies between the
        outermost corners; where no centre does, the nearest one. Cut to the volume.

    Raises:
        GeometryError: All of it lies beside the volume.
    """
    corners = np.asarray(corners_ijk, np.float64)
    low, high = corners.min(axis=0), corners.max(axis=0)
    first, last = np.ceil(low - 1e-6), np.floor(high + 1e-6)
    nearest = np.floor((low + high) / 2 + 0.5)
    thin = first > last
    first, last = np.where(thin, nearest, first), np.where(thin, nearest, last)
    most = np.array(shape[2::-1]) - 1
    if (last < 0).any() or (first > most).any():
        raise GeometryError("The box lies beside the volume: draw it on the image.")
    box: NDArray[np.int64] = np.stack([first.clip(0), np.minimum(last, most)]).astype(np.int64)
    return box


def box_of_clicks(corners_ijk: NDArray[Any], shape: Sequence[int]) -> NDArray[np.int64]:
    """Returns the voxels between two clicked corners, like ``box_of_corners``.

    The voxels that were clicked on belong to it.

    Raises:
        GeometryError: All of it lies beside the volume.
    """
    nearest = np.floor(np.asarray(corners_ijk, np.float64) + 0.5)
    return box_of_corners(nearest, shape)


def box_on_slice(box_ijk: NDArray[np.int64], axis: int) -> list[int]:
    """Returns ``[x0, y0, x1, y1]`` of a box of voxels on the slices along an axis."""
    x, y = in_plane(axis)
    (x0, y0), (x1, y1) = box_ijk[:, [x, y]].tolist()
    return [x0, y0, x1, y1]


def range_of_box(box_ijk: NDArray[np.int64], axis: int) -> tuple[int, int]:
    """Returns first and last slice of a box of voxels along an axis."""
    first, last = box_ijk[:, 2 - axis].tolist()
    return int(first), int(last)


def point_on_slice(point_ijk: NDArray[Any], on: Slice, shape: Sequence[int]) -> list[int]:
    """Returns the pixel ``[x, y]`` of a slice that is nearest to a point.

    Raises:
        GeometryError: The point lies beside the volume.
    """
    nearest = np.floor(np.asarray(point_ijk, np.float64) + 0.5).astype(np.int64)
    columns, rows = in_plane(on.axis)
    for along in (columns, rows):
        if not 0 <= nearest[along] < shape[2 - along]:
            raise GeometryError("The point lies beside the volume: put it on the image.")
    return [int(nearest[columns]), int(nearest[rows])]


def overlap(
    first: Sequence[int], sides: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Returns where a box and a volume overlap: within the box, and within the volume."""
    inner, outer = [], []
    for start, side, most in zip(first, sides, shape):
        low = min(max(0, start), most)
        high = max(low, min(most, start + side))
        outer.append(slice(low, high))
        inner.append(slice(low - start, high - start))
    return tuple(inner), tuple(outer)


def lattice_offset(
    matrix: NDArray[Any], reference: NDArray[Any], shape: Sequence[int]
) -> Optional[tuple[int, int, int]]:
    """Says where the voxels of one grid lie in another that differs by whole voxels only.

    Args:
        matrix: ``(i, j, k, 1)`` to millimetres.
        reference: The other grid's.
        shape: How far the two must agree, in voxels ``(k, j, i)``.

    Returns:
        What is added to ``(k, j, i)`` of the one to find it in the other; None where they differ.
    """
    between = np.linalg.inv(np.asarray(reference, np.float64)) @ np.asarray(matrix, np.float64)
    offset = np.rint(between[:3, 3])
    rest = np.abs(between[:3, :3] - np.eye(3)) @ np.array(shape[2::-1], np.float64)
    if rest.max() > 0.01 or np.abs(between[:3, 3] - offset).max() > 0.01:
        return None
    i, j, k = (int(value) for value in offset)
    return k, j, i
