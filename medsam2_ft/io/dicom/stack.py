"""Puts planes in order and decides whether they make one rectangular grid.

The rules, with what is silent, noted and refused:

* Order is that of the positions projected on the slice normal, never that of names or numbers.
* Planes of another orientation, size or pixel spacing than most (localisers) are left out and
  noted where they are few, else refused.
* Slices are placed at equal steps between the first and the last. The largest distance of a real
  slice from its place is silent up to 1 % of a step, noted up to 10 %, and refused beyond.
* A gap of 1.5 steps (the median) or more means missing slices, which is refused: filling them in
  would be an invention and closing the gap a lie.
* A tilted gantry shifts the slices sideways. A shift over the whole stack of up to 1/20 pixel is
  silent, up to half a pixel noted, and refused beyond.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.checks import check_geometry
from medsam2_ft.io.dicom.header import Plane
from medsam2_ft.types import Geometry

SAME_PLACE_MM = 1e-3
_SAME_COSINE = 1e-3
_SILENT_STEP, _LARGEST_STEP = 0.01, 0.10
_MISSING_STEP = 1.5
_SILENT_SHIFT_PX, _LARGEST_SHIFT_PX = 0.05, 0.5
_FEW_PLANES, _FEW_SHARE = 3, 0.1
_STRAIGHTEN = "resample it to a rectangular grid, as dcm2niix does, and give the NIfTI file"


@dataclass(frozen=True)
class Stack:
    """Planes in the order of the array, one or more of them at each slice.

    Attributes:
        slices: Planes of each slice; more than one where several lie at the same place.
        geometry: The grid.
        has_geometry: Whether the files say where the grid lies.
        notes: What was decided.
    """

    slices: tuple[tuple[Plane, ...], ...]
    geometry: Geometry
    has_geometry: bool
    notes: tuple[str, ...] = ()


def stack_planes(where: Path, planes: Sequence[Plane]) -> Stack:
    """Orders the planes of one series.

    Args:
        where: Named in errors.
        planes: At least one, in any order.

    Raises:
        UserError: Several images without positions, or no rectangular grid (see the module).
    """
    planes, notes = _without_odd_planes(where, planes)
    if not planes[0].is_placed:
        return _unplaced(where, planes, notes)
    axes = axes_of(where, planes[0])
    along = np.array([np.dot(plane.position_mm or (), axes[:, 2]) for plane in planes])
    order = np.argsort(along, kind="stable")
    groups: list[list[Plane]] = []
    places: list[float] = []
    for index in order:
        if not places or along[index] - places[-1] > SAME_PLACE_MM:
            groups.append([])
            places.append(float(along[index]))
        groups[-1].append(planes[index])
    step, more = _step(where, np.array(places), planes[0])
    notes.extend(more)
    notes.extend(_check_shift(where, planes, axes))
    y, x = planes[0].spacing_yx_mm or (1.0, 1.0)
    origin = groups[0][0].position_mm or ()
    geometry = check_geometry(str(where), (x, y, step), origin, axes.ravel())
    return Stack(tuple(tuple(group) for group in groups), geometry, True, tuple(notes))


def axes_of(where: Path, plane: Plane) -> NDArray[np.float64]:
    """Returns the x, y and z axes of a placed plane as columns of unit vectors.

    Raises:
        UserError: The orientation is not made of two perpendicular unit vectors.
    """
    rows = np.array(plane.orientation).reshape(2, 3)
    lengths = np.linalg.norm(rows, axis=1)
    if np.abs(lengths - 1).max() > _LARGEST_STEP or abs(rows[0] @ rows[1]) > _SAME_COSINE:
        raise UserError(
            f"{where}: ImageOrientationPatient {rows.ravel().round(4).tolist()} is not made of "
            "two perpendicular unit vectors; correct it or convert the series again"
        )
    rows = rows / lengths[:, None]
    return np.column_stack([rows[0], rows[1], np.cross(rows[0], rows[1])]) + 0.0  # no -0.0


def _without_odd_planes(where: Path, planes: Sequence[Plane]) -> tuple[list[Plane], list[str]]:
    keys = _merged_keys([_key(plane) for plane in planes])
    counts = Counter(keys)
    if len(counts) == 1:
        return list(planes), []
    main, count = counts.most_common(1)[0]
    odd = len(planes) - count
    if odd > max(_FEW_PLANES, _FEW_SHARE * len(planes)) or count <= 2 * odd:
        kinds = "; ".join(f"{n} of {_describe(key)}" for key, n in counts.most_common(4))
        raise UserError(
            f"{where}: its images do not fit together ({kinds}); put those that make one volume "
            "in a folder of their own"
        )
    note = f"{odd} of {len(planes)} images differ in orientation or size and are left out"
    return [plane for plane, key in zip(planes, keys, strict=True) if key == main], [note]


_Key = tuple[tuple[int, int, int], tuple[float, ...], tuple[float, ...]]


def _key(plane: Plane) -> _Key:
    orientation = plane.orientation if plane.is_placed else None
    return plane.shape, orientation or (), plane.spacing_yx_mm or ()


def _merged_keys(keys: Sequence[_Key]) -> list[_Key]:
    """Gives planes that differ by rounding only the key of the most frequent of them."""
    leaders: dict[_Key, _Key] = {}
    for key, _ in Counter(keys).most_common():
        alike = (one for one in leaders.values() if _is_alike(one, key))
        leaders[key] = next(alike, key)
    return [leaders[key] for key in keys]


def _is_alike(a: _Key, b: _Key) -> bool:
    return (
        a[0] == b[0]
        and len(a[1]) == len(b[1])
        and len(a[2]) == len(b[2])
        and np.allclose(a[1], b[1], rtol=0, atol=_SAME_COSINE)
        and np.allclose(a[2], b[2], rtol=_SAME_COSINE, atol=0)
    )


def _describe(key: _Key) -> str:
    (rows, columns, _), orientation, _ = key
    if not orientation:
        return f"{columns} x {rows} without a position"
    x, y = np.array(orientation[:3]), np.array(orientation[3:])
    plane = ("sagittal", "coronal", "axial")[int(np.abs(np.cross(x, y)).argmax())]
    return f"{columns} x {rows} {plane}"


def _unplaced(where: Path, planes: Sequence[Plane], notes: list[str]) -> Stack:
    """Frames of one file, or one image: the order is that of the file."""
    if len({plane.path for plane in planes}) > 1:
        raise UserError(
            f"{where}: holds {len(planes)} images that do not say where they lie "
            "(ImagePositionPatient, ImageOrientationPatient); give them one by one"
        )
    spacing = planes[0].spacing_yx_mm
    if spacing is None:
        notes.append("no pixel spacing in the file; 1 mm is taken")
    if len(planes) > 1:
        notes.append(f"{len(planes)} frames that do not say where they lie, in the file's order")
    y, x = spacing or (1.0, 1.0)
    geometry = check_geometry(str(where), (x, y, 1.0))
    return Stack(tuple((plane,) for plane in planes), geometry, False, tuple(notes))


def _step(where: Path, places: NDArray[np.float64], plane: Plane) -> tuple[float, list[str]]:
    """Distance between slices in mm."""
    if plane.spacing_yx_mm is None:
        raise UserError(f"{where}: has positions but no PixelSpacing; add it or convert it again")
    if len(places) == 1:
        return plane.thickness_mm or 1.0, [] if plane.thickness_mm else [
            "a single slice without a thickness; 1 mm is taken"
        ]
    gaps = np.diff(places)
    median = float(np.median(gaps))
    wide = gaps >= _MISSING_STEP * median
    if wide.any():
        missing = int(np.rint(gaps[wide] / median - 1).sum())
        first = int(np.flatnonzero(wide)[0])
        raise UserError(
            f"{where}: {max(missing, 1)} slices are missing in {int(wide.sum())} places (slices "
            f"are {median:.4g} mm apart, but {gaps[first]:.4g} mm after slice {first + 1}); copy "
            "them again, or put the slices on one side of the gap in a folder of their own"
        )
    step = float(places[-1] - places[0]) / len(gaps)
    worst = float(np.abs(places - places[0] - step * np.arange(len(places))).max()) / step
    if worst > _LARGEST_STEP:
        raise UserError(
            f"{where}: slices are unevenly spaced ({gaps.min():.4g} to {gaps.max():.4g} mm, up to "
            f"{worst * step:.3g} mm from an even grid); {_STRAIGHTEN}"
        )
    if worst > _SILENT_STEP:
        return step, [
            f"slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart; {step:.4g} mm is taken"
        ]
    return step, []


def _check_shift(where: Path, planes: Sequence[Plane], axes: NDArray[np.float64]) -> list[str]:
    """Sideways shift of the slices, as a tilted gantry makes it."""
    positions = np.array([plane.position_mm for plane in planes])
    inside = (positions - positions[0]) @ axes
    spacing_xy = np.array(planes[0].spacing_yx_mm or (1.0, 1.0))[::-1]
    reach = np.ptp(inside, axis=0)
    shift = float((reach[:2] / spacing_xy).max())
    if shift <= _SILENT_SHIFT_PX:
        return []
    angle = math.degrees(math.atan2(float(np.hypot(*reach[:2])), float(reach[2])))
    text = f"slices shift sideways by {shift:.3g} pixels over the stack ({angle:.2g} degrees"
    if shift > _LARGEST_SHIFT_PX:
        raise UserError(f"{where}: {text}: a tilted gantry); {_STRAIGHTEN}")
    return [f"{text}); the shift is ignored"]
