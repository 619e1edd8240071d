"""Relates given prompts to an image: from voxels or millimetres to frames, columns and rows."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.object_prompts import ObjectPrompt, SlicePrompt, check_prompts
from medsam2_ft.segmenting.given import Given
from medsam2_ft.types import Geometry, LabelVolume
from medsam2_ft.volume_prompts import frames_along, prompts_from_box3d

Range = tuple[int, int] | Literal["full"] | None

# Where the frame, the column and the row of a slice stand in voxel coordinates (x, y, z).
_ORDER = {0: (2, 0, 1), 1: (1, 0, 2), 2: (0, 1, 2)}
_LARGEST_TILT = 0.5  # voxels by which a flat box may leave its slice


@dataclass(frozen=True)
class Grid:
    """What prompts are placed on.

    Attributes:
        shape_zyx: Extents of the image.
        geometry: Where it lies.
        has_geometry: Whether that is known.
        axis: Axis whose slices are frames.
    """

    shape_zyx: tuple[int, int, int]
    geometry: Geometry
    has_geometry: bool
    axis: int

    @property
    def count(self) -> int:
        """Number of frames."""
        return self.shape_zyx[self.axis]

    @property
    def hw(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        rows, columns = (n for axis, n in enumerate(self.shape_zyx) if axis != self.axis)
        return rows, columns

    def to_voxels(self, points_mm: NDArray[np.float64], world: str) -> NDArray[np.float64]:
        """Turns ``(n, 3)`` world points (x, y, z) into voxel coordinates (x, y, z)."""
        if world == "ras":
            points_mm = points_mm * (-1.0, -1.0, 1.0)
        axes = np.array(self.geometry.direction).reshape(3, 3) * self.geometry.spacing_mm[::-1]
        offsets = points_mm - np.array(self.geometry.origin_mm)
        voxels: NDArray[np.float64] = np.linalg.solve(axes, offsets.T).T
        return voxels


@dataclass
class _Object:
    """What is known of one object so far."""

    boxes: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    points: dict[int, list[tuple[float, float, int]]] = field(default_factory=dict)
    box_range: tuple[int, int] | None = None
    span: tuple[int, int] | None = None

    def slices(self) -> tuple[SlicePrompt, ...]:
        """Returns its prompts, one for each slice."""
        return tuple(self._slice(frame) for frame in sorted({*self.boxes, *self.points}))

    def _slice(self, frame: int) -> SlicePrompt:
        points = self.points.get(frame, [])
        return SlicePrompt(
            frame,
            self.boxes.get(frame),
            np.array([point[:2] for point in points], np.float32).reshape(-1, 2),
            np.array([point[2] for point in points], np.int32),
        )


def place(given: Sequence[Given], grid: Grid, wanted: Range = None) -> list[ObjectPrompt]:
    """Makes prompts for frames of ``grid``.

    An object is segmented in the slices that are wanted; where nothing is said of them, in those
    of its 3D box, or without one in all.

    Args:
        given: Prompts; those of one object on one slice are joined.
        grid: The image.
        wanted: Slices for all objects that do not say theirs.

    Returns:
        One for each object, by id.

    Raises:
        UserError: Millimetres without geometry, a 2D prompt without a slice, two boxes on one
            slice, or what ``check_prompts`` refuses.
    """
    objects: dict[int, _Object] = {}
    for prompt in given:
        _add(objects.setdefault(prompt.object_id, _Object()), prompt, grid)
    prompts = []
    for object_id, known in sorted(objects.items()):
        parts = known.slices()
        z_range = _range([part.frame for part in parts], known, wanted, grid.count)
        prompts.append(ObjectPrompt(object_id, parts, z_range))
    check_prompts(prompts, grid.count, grid.hw)
    return prompts


def place_masks(labels: LabelVolume, grid: Grid, wanted: Range = None) -> list[ObjectPrompt]:
    """Makes every label an object whose masks, on the slices that have some, are the prompts.

    Raises:
        UserError: Labels of another grid than the image's, without any object, or a range that
            leaves labelled slices out.
    """
    prompts = []
    for label_map in labels.maps:
        if label_map.shape != grid.shape_zyx:
            raise UserError(
                f"the mask has the grid {label_map.shape} and the image {grid.shape_zyx} "
                "(z, y, x); draw it on the image"
            )
        frames = frames_along(label_map, grid.axis)
        for label in (int(value) for value in np.unique(label_map) if value):
            drawn = [z for z, frame in enumerate(frames) if (frame == label).any()]
            parts = tuple(SlicePrompt(z, mask=np.asarray(frames[z] == label)) for z in drawn)
            z_range = _range(drawn, _Object(), wanted, grid.count)
            prompts.append(ObjectPrompt(label, parts, z_range))
    if not prompts:
        raise UserError("the mask is empty; draw the object on one slice at least")
    check_prompts(prompts, grid.count, grid.hw)
    return sorted(prompts, key=lambda prompt: prompt.object_id)


def ranged(prompts: Sequence[ObjectPrompt], wanted: Range, count: int) -> list[ObjectPrompt]:
    """Replaces the range of every object by the one that is wanted, if any is."""
    if wanted is None:
        return list(prompts)
    span = (0, count - 1) if wanted == "full" else wanted
    return [ObjectPrompt(prompt.object_id, prompt.slices, span) for prompt in prompts]


def names_of(given: Sequence[Given]) -> dict[int, str]:
    """Returns the names of objects.

    Raises:
        UserError: An object has two.
    """
    names: dict[int, str] = {}
    for prompt in given:
        if prompt.name and names.setdefault(prompt.object_id, prompt.name) != prompt.name:
            raise UserError(
                f"{prompt.where}: object {prompt.object_id} is called {prompt.name!r} here and "
                f"{names[prompt.object_id]!r} before; give objects of two names two numbers"
            )
    return names


def _range(frames: Sequence[int], known: _Object, wanted: Range, count: int) -> tuple[int, int]:
    if known.span is not None:
        return known.span
    if isinstance(wanted, tuple):
        return wanted
    if known.box_range is None or wanted == "full":
        return 0, count - 1
    first, last = known.box_range
    return min(first, *frames), max(last, *frames)


def _add(known: _Object, prompt: Given, grid: Grid) -> None:
    if prompt.span is not None:
        if known.span not in (None, prompt.span):
            raise UserError(f"{prompt.where}: object {prompt.object_id} has another range before")
        known.span = prompt.span
    corners = _corners(prompt, grid)
    if prompt.kind == "box3d":
        box = np.concatenate([corners.min(axis=0)[[1, 2, 0]], corners.max(axis=0)[[1, 2, 0]]])
        made = prompts_from_box3d(box.astype(np.float32), prompt.object_id, grid.count)
        flat = made.slices[0].box_xyxy
        assert flat is not None
        if known.box_range is not None:
            raise UserError(f"{prompt.where}: object {prompt.object_id} has a 3D box already")
        known.box_range = made.z_range
        _add_box(known, prompt, made.frame, flat)
        return
    frame = _frame(prompt, corners)
    flat = corners[:, 1:]
    if prompt.kind == "box2d":
        sides = np.concatenate([flat.min(axis=0), flat.max(axis=0)])
        _add_box(known, prompt, frame, sides.astype(np.float32))
    else:
        column, row = (float(value) for value in flat[0])
        known.points.setdefault(frame, []).append((column, row, prompt.label))


def _add_box(known: _Object, prompt: Given, frame: int, box: NDArray[np.float32]) -> None:
    if frame in known.boxes:
        raise UserError(
            f"{prompt.where}: object {prompt.object_id} has two boxes on slice {frame}; leave one "
            "out, or make them two objects"
        )
    known.boxes[frame] = box


def _corners(prompt: Given, grid: Grid) -> NDArray[np.float64]:
    """The prompt's point or corners as (frame, column, row)."""
    numbers = np.array(prompt.values, np.float64)
    is_flat = prompt.kind.endswith("2d")
    pairs = numbers.reshape(-1, 2 if is_flat else 3)
    _check_order(prompt, pairs)
    on = prompt.slice
    if is_flat and on is None:
        if grid.count > 1:
            raise UserError(
                f"{prompt.where}: on which of the {grid.count} slices? Give it, such as "
                "x0,y0,x1,y1@12 or x,y,z,label"
            )
        if prompt.units == "mm":
            raise UserError(f"{prompt.where}: give the position z in mm as well (...@z)")
        on = 0.0
    if prompt.units == "voxels":
        if is_flat:
            return np.column_stack([np.full(len(pairs), on), pairs])
        return pairs[:, _ORDER[grid.axis]]
    if not grid.has_geometry:
        raise UserError(
            f"{prompt.where}: the image does not say where it lies in mm; give voxels "
            "(--units voxels)"
        )
    if is_flat:
        pairs = np.column_stack([pairs, np.full(len(pairs), on)])
    # all corners: an oblique image's axes are not the world's
    world = np.array(list(itertools.product(*pairs.T))) if len(pairs) > 1 else pairs
    return grid.to_voxels(world, prompt.world)[:, _ORDER[grid.axis]]


def _check_order(prompt: Given, pairs: NDArray[np.float64]) -> None:
    if (pairs[0] > pairs[-1]).any():
        raise UserError(f"{prompt.where}: ends before it starts; give the smaller corner first")


def _frame(prompt: Given, corners: NDArray[np.float64]) -> int:
    frames = corners[:, 0]
    if np.ptp(frames) > 2 * _LARGEST_TILT:
        raise UserError(
            f"{prompt.where}: does not lie in one slice of the image but across slices "
            f"{frames.min():.1f} to {frames.max():.1f}; give a 3D box, or another --axis"
        )
    if prompt.units == "voxels" and float(frames[0]) != int(frames[0]):
        raise UserError(f"{prompt.where}: slice {frames[0]:g} is no whole number")
    return round(float(frames.mean()))
