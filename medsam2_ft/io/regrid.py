"""Labels of one grid on another, by the nearest voxel in world space."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import label_ids
from medsam2_ft.types import Geometry, LabelVolume

TOLERANCE_VOXELS = 0.1
"""How far a corner of two grids may lie apart, in units of the smallest spacing of the second.

Headers round (float32, or a NIfTI's quaternion against its matrix) by thousandths of a voxel; a
real shift, a flip or another spacing moves a corner by a voxel or more.
"""

_NEGLIGIBLE_VOXELS = 1e-4  # a slant that moves no voxel of the grid further than this is none
_MATCH_VOXELS = 1e-2  # voxels that meet this closely are the same, only numbered differently
_TIE = 1e-6  # between two voxels the upper one is taken, whatever the rounding
_SHOWN = 5  # how many ids a note lists

Shape = tuple[int, int, int]
_Box = tuple[slice, slice, slice]


def regrid_labels(
    labels: LabelVolume, like: Geometry, shape: Shape, where: str = "the labels"
) -> LabelVolume:
    """Puts labels on another grid: every voxel takes the label of the nearest one, or none.

    Exact where the grids hold the same voxels in another order (axes permuted or flipped, a part
    cut out). Works on the part that the labels cover; memory besides the result is a few slices.

    Args:
        labels: The labels, with their own grid.
        like: The grid that they are put on.
        shape: Its extents ``(z, y, x)``.
        where: Name for the message.

    Returns:
        Labels on the grid ``like``, with a note that says what changed. On the same grid (no
        corner further off than ``TOLERANCE_VOXELS``) the maps are those of ``labels``.

    Raises:
        UserError: There are labels, and no voxel of them comes to lie on the new grid.
    """
    if all(label_map.shape == shape for label_map in labels.maps) and (
        grid_offset_voxels(labels.geometry, like, shape) <= TOLERANCE_VOXELS
    ):
        return replace(labels, geometry=like)
    change = _Change.between(like, labels.geometry)
    maps = tuple(_resampled(label_map, change, shape) for label_map in labels.maps)
    if any(m.any() for m in labels.maps) and not any(m.any() for m in maps):
        raise UserError(
            f"{where}: no label lies within the image: {describe(labels.geometry)} against "
            f"{describe(like)}; give the label file of this image, or correct the header"
        )
    notes = (*labels.notes, *_notes(labels, maps, change, like))
    return replace(labels, maps=maps, geometry=like, notes=notes)


def grid_offset_voxels(one: Geometry, other: Geometry, shape: Shape) -> float:
    """Returns how far corner voxels of two grids lie apart, in units of other's least spacing."""
    shift = _corners(one, shape) - _corners(other, shape)
    return float(np.linalg.norm(shift, axis=1).max()) / min(other.spacing_mm)


def describe(geometry: Geometry) -> str:
    """Returns a grid in words, for messages."""
    spacing, origin, direction = (
        " ".join(f"{value:.4g}" for value in values)
        for values in (geometry.spacing_mm, geometry.origin_mm, geometry.direction)
    )
    return f"spacing z y x {spacing}, origin x y z {origin}, direction {direction}"


def _corners(geometry: Geometry, shape: Shape) -> Float64[np.ndarray, "8 3"]:
    """LPS positions in mm of the eight corner voxels' centres."""
    indices = np.array(list(product(*((0, n - 1) for n in shape))), np.float64)
    return np.asarray(indices @ _steps(geometry).T + np.array(geometry.origin_mm), np.float64)


def _steps(geometry: Geometry) -> Float64[np.ndarray, "3 3"]:
    """World step in mm of one voxel; columns are the array axes z, y, x."""
    axes = np.array(geometry.direction, np.float64).reshape(3, 3)[:, ::-1]
    return np.asarray(axes * np.array(geometry.spacing_mm), np.float64)


@dataclass(frozen=True)
class _Change:
    """From voxel indices (z, y, x) of one grid to those of another: ``matrix @ index + offset``."""

    matrix: Float64[np.ndarray, "3 3"]
    offset: Float64[np.ndarray, " 3"]

    @classmethod
    def between(cls, source: Geometry, target: Geometry) -> "_Change":
        to_voxels = np.linalg.inv(_steps(target))
        shift = np.array(source.origin_mm) - np.array(target.origin_mm)
        return cls(to_voxels @ _steps(source), to_voxels @ shift)

    def inverse(self) -> "_Change":
        back = np.linalg.inv(self.matrix)
        return _Change(back, -back @ self.offset)

    def __call__(self, indices: NDArray[Any]) -> Float64[np.ndarray, "n 3"]:
        """Maps rows of indices."""
        return np.asarray(indices @ self.matrix.T + self.offset, np.float64)

    def permutation(self, shape: Shape) -> tuple[int, int, int] | None:
        """For every axis of the indices the one it becomes; None where axes are oblique."""
        z, y, x = (int(axis) for axis in np.abs(self.matrix).argmax(axis=0))
        if sorted((z, y, x)) != [0, 1, 2]:
            return None
        slant = np.abs(self.matrix) * np.array(shape)
        slant[[z, y, x], range(3)] = 0
        return (z, y, x) if slant.sum(axis=1).max() <= _NEGLIGIBLE_VOXELS else None

    def is_renumbering(self, shape: Shape) -> bool:
        """Whether voxels meet voxels: axes permuted or flipped, shifted by whole voxels."""
        whole = _Change(np.rint(self.matrix), np.rint(self.offset))
        corners = np.array(list(product(*((0, n - 1) for n in shape))), np.float64)
        signed = np.abs(whole.matrix)
        once = (signed.sum(axis=0) == 1).all() and (signed.sum(axis=1) == 1).all()
        return bool(once and np.abs(self(corners) - whole(corners)).max() <= _MATCH_VOXELS)


def _resampled(label_map: NDArray[Any], change: _Change, shape: Shape) -> NDArray[Any]:
    """One map on the new grid; ``change`` leads from indices of the new grid to its own."""
    result = np.zeros(shape, label_map.dtype)
    box = _covered(label_map, change, shape)
    if box is None:
        return result
    start = np.array([part.start for part in box], np.float64)
    inner = _Change(change.matrix, change(start[None])[0] + _TIE)
    part = result[box]
    extents = (part.shape[0], part.shape[1], part.shape[2])
    order = inner.permutation(extents)
    if order is None:
        from scipy import ndimage

        # grid-constant: mode constant leaves out the outer half of the border voxels
        ndimage.affine_transform(
            label_map, inner.matrix, inner.offset, output=part, order=0, mode="grid-constant"
        )
    else:
        _pick(label_map.transpose(order), inner, order, part)
    return result


def _pick(source: NDArray[Any], change: _Change, order: Shape, part: NDArray[Any]) -> None:
    """Fills ``part`` from ``source``, whose axes run along those of ``part``."""
    chosen, valid = [], []
    for axis, own in enumerate(order):
        position = change.matrix[own, axis] * np.arange(part.shape[axis]) + change.offset[own]
        nearest = np.floor(position + 0.5).astype(np.int64)
        inside = np.flatnonzero((nearest >= 0) & (nearest < source.shape[axis]))
        valid.append(inside)
        chosen.append(nearest[inside])
    rows_columns = np.ix_(valid[1], valid[2])
    for new, old in zip(valid[0], chosen[0], strict=True):
        part[new][rows_columns] = source[old][chosen[1]][:, chosen[2]]


def _covered(label_map: NDArray[Any], change: _Change, shape: Shape) -> _Box | None:
    """The part of the new grid that the labels can reach; None where there is none."""
    corners = _outer_corners(label_map)
    if corners is None:
        return None
    reached = change.inverse()(corners)
    low = np.maximum(np.floor(reached.min(axis=0)), 0).astype(np.int64)
    high = np.minimum(np.ceil(reached.max(axis=0)) + 1, shape).astype(np.int64)
    if (low >= high).any():
        return None
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return z, y, x


def _outer_corners(label_map: NDArray[Any]) -> Float64[np.ndarray, "8 3"] | None:
    """Corners of the box around the labels, voxels' outer faces; None of an empty map."""
    hit = np.flatnonzero([plane.any() for plane in label_map])
    if not hit.size:
        return None
    flat = np.zeros(label_map.shape[1:], np.bool_)
    for z in hit:
        flat |= label_map[z] != 0
    ends = [
        (i[0] - 0.5, i[-1] + 0.5) for i in (hit, *map(np.flatnonzero, (flat.any(1), flat.any(0))))
    ]
    return np.array(list(product(*ends)), np.float64)


def _notes(
    labels: LabelVolume, maps: tuple[NDArray[Any], ...], change: _Change, like: Geometry
) -> list[str]:
    before, after = (sum(int(np.count_nonzero(m)) for m in held) for held in (labels.maps, maps))
    size = labels.maps[0].shape
    shape = maps[0].shape
    outside = sum(_outside(label_map, change.inverse(), shape) for label_map in labels.maps)
    lost = f"; {outside} voxels lay outside the image" if outside else ""
    if change.is_renumbering((shape[0], shape[1], shape[2])):
        text = f"the labels' axes were turned to the image's, voxel by voxel{lost}"
    else:
        sizes = (float(np.prod(geometry.spacing_mm)) for geometry in (labels.geometry, like))
        volumes = [count * size for count, size in zip((before, after), sizes, strict=True)]
        text = (
            f"the labels were resampled to the image's grid (nearest) from {size} voxels, "
            f"{describe(labels.geometry)}: {before} label voxels ({volumes[0]:.6g} mm3) became "
            f"{after} ({volumes[1]:.6g} mm3){lost}"
        )
    notes = [text]
    held = {label for label_map in maps for label in label_ids(label_map)}
    gone = [label for m in labels.maps for label in label_ids(m) if label not in held]
    if gone:
        more = f" and {len(gone) - _SHOWN} more" if gone[_SHOWN:] else ""
        listed = ", ".join(str(label) for label in gone[:_SHOWN])
        notes.append(f"no voxel is left of label {listed}{more}: outside, or too small")
    return notes


def _outside(label_map: NDArray[Any], change: _Change, shape: tuple[int, ...]) -> int:
    """Number of label voxels whose centre lies outside the new grid; ``change`` leads to it."""
    corners = _outer_corners(label_map)
    if corners is None or not _beyond(change(corners), shape).any():
        return 0
    total = 0
    for z, plane in enumerate(label_map):
        rows, columns = np.nonzero(plane)
        if rows.size:
            indices = np.stack([np.full(rows.size, z), rows, columns], axis=1)
            total += int(np.count_nonzero(_beyond(change(indices), shape)))
    return total


def _beyond(indices: Float64[np.ndarray, "n 3"], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    over = (indices < -0.5) | (indices >= np.array(shape) - 0.5)
    return np.asarray(over.any(axis=1), np.bool_)
