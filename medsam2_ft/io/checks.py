"""Checks that every format shares: geometry, label maps, images. Each failure is a UserError."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import label_ids
from medsam2_ft.types import IDENTITY_DIRECTION, Geometry

Numbers = Sequence[float] | NDArray[Any]
MAX_LABEL_ID = 65535
_INTEGRAL_TOLERANCE = 1e-3
_ORTHONORMAL_TOLERANCE = 1e-3


def check_geometry(
    where: str,
    spacing_xyz: Numbers,
    origin_xyz: Numbers = (0.0, 0.0, 0.0),
    direction: Numbers = IDENTITY_DIRECTION,
) -> Geometry:
    """Builds a Geometry from ITK's (x, y, z) order.

    Raises:
        UserError: Spacing that is not positive and finite, a wrong number of values, or a
            direction whose columns are not perpendicular unit vectors.
    """
    spacing = _numbers(where, "spacing", spacing_xyz, 3)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise UserError(
            f"{where}: spacing {spacing.tolist()} must be three positive numbers of mm; "
            "correct it, for example to 1 1 1 where it is not known"
        )
    origin = _numbers(where, "origin", origin_xyz, 3)
    matrix = _numbers(where, "direction", direction, 9).reshape(3, 3)
    if not (np.isfinite(origin).all() and np.isfinite(matrix).all()):
        raise UserError(f"{where}: origin or direction is not finite; correct it or leave it out")
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = np.abs(matrix.T @ matrix - np.eye(3)).max()
    if not deviation <= _ORTHONORMAL_TOLERANCE:
        raise UserError(
            f"{where}: direction {matrix.ravel().tolist()} is not made of perpendicular unit "
            "vectors; resample the volume to a rectangular grid or leave direction out"
        )
    z, y, x = (float(value) for value in spacing[::-1])
    return Geometry(
        spacing_mm=(z, y, x),
        origin_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=tuple(float(value) for value in matrix.ravel()),
    )


def _numbers(where: str, name: str, values: Numbers, count: int) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.size != count or array.dtype.kind not in "uif":
        raise UserError(
            f"{where}: {name} must be {count} numbers, not {array.dtype} of shape {array.shape}; "
            "correct it or leave it out"
        )
    return array.astype(np.float64).ravel()


def check_image_shape(where: str, shape: tuple[int, ...]) -> None:
    """Accepts ``(z, y, x)`` and ``(z, y, x, 3)`` without an empty axis.

    Raises:
        UserError: Any other shape.
    """
    if len(shape) == 4 and shape[-1] != 3:
        raise UserError(
            f"{where}: shape {shape} has four axes and the last is not three colours; pick one "
            "channel or time point (of RGBA, the first three channels)"
        )
    if len(shape) not in (3, 4):
        raise UserError(
            f"{where}: shape {shape} is neither (z, y, x) nor (z, y, x, 3); "
            "pick one volume of it or add the missing axis"
        )
    if 0 in shape:
        raise UserError(f"{where}: shape {shape} is empty; remove the file or make it again")


def as_image(where: str, array: NDArray[Any]) -> NDArray[np.uint8]:
    """Casts an image with values 0-255 to uint8; fractions are rounded.

    Raises:
        UserError: Not numbers, not finite, outside 0-255, or fractions between 0 and 1 only.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "uif":
        raise UserError(
            f"{where}: image of type {array.dtype}; save it as uint8, or run "
            "`medsam2-ft prepare` on the original volume"
        )
    low, high = finite_range(where, array)
    if low < 0 or high > 255:
        raise UserError(
            f"{where}: image values {low:g} to {high:g} lie outside 0-255; run "
            "`medsam2-ft prepare` on the original volume, which applies the modality's rule"
        )
    if array.dtype.kind == "f" and 0 < high <= 1 and any((p % 1).any() for p in array):
        raise UserError(
            f"{where}: image values are fractions between 0 and 1; multiply by 255, or run "
            "`medsam2-ft prepare` on the original volume"
        )
    result = np.empty(array.shape, np.uint8)
    for z, plane in enumerate(array):
        result[z] = np.rint(plane)
    return result


def finite_range(where: str, array: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest value of a non-empty real array, slice by slice.

    Raises:
        UserError: NaN or an infinity.
    """
    low, high = np.inf, -np.inf
    for z, plane in enumerate(array):
        if plane.dtype.kind == "f" and not np.isfinite(plane).all():
            raise UserError(
                f"{where}: NaN or an infinity in slice {z}; repair the file, "
                "for example with numpy.nan_to_num"
            )
        low, high = min(low, float(plane.min())), max(high, float(plane.max()))
    return low, high


def as_label_map(where: str, array: NDArray[Any]) -> NDArray[Any]:
    """Casts a label map to uint8 or uint16.

    uint8 and uint16 are kept; booleans become uint8; other integers, and floats that are integers
    within 1e-3 (rounding of scaled files), take the smaller of the two types that holds them.

    Raises:
        UserError: Negative, fractional, not finite, or above 65535.
    """
    if array.dtype in (np.uint8, np.uint16):
        return array
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    if array.dtype.kind not in "uif":
        raise UserError(f"{where}: labels of type {array.dtype}; save them as uint8 or uint16")
    low, high = finite_range(where, array) if array.size else (0.0, 0.0)
    if low < -_INTEGRAL_TOLERANCE or high > MAX_LABEL_ID + _INTEGRAL_TOLERANCE:
        raise UserError(
            f"{where}: labels range from {low:g} to {high:g}; use 0 for the background and "
            f"ids from 1 to {MAX_LABEL_ID}"
        )
    result = np.empty(array.shape, np.uint8 if round(high) <= 255 else np.uint16)
    for z, plane in enumerate(array):
        whole = np.rint(plane)
        if plane.dtype.kind == "f" and (np.abs(plane - whole) > _INTEGRAL_TOLERANCE).any():
            raise UserError(
                f"{where}: labels with fractions, such as {plane[plane != whole].flat[0]:g}; "
                "this is a probability map or an image: threshold it, or give the label file"
            )
        result[z] = whole
    return result


def check_disjoint_ids(where: str, maps: Sequence[NDArray[Any]]) -> None:
    """Makes sure that no label id occurs in two maps.

    Raises:
        UserError: An id occurs twice.
    """
    if len(maps) < 2:
        return
    seen: set[int] = set()
    for label_map in maps:
        ids = set(label_ids(label_map))
        if seen & ids:
            raise UserError(
                f"{where}: label id {min(seen & ids)} occurs in two label maps; "
                "give every object an id of its own"
            )
        seen |= ids
