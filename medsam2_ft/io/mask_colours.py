"""Masks whose labels are colours."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.checks import MAX_LABEL_ID
from medsam2_ft.io.label_values import Colour

_SHOWN = 5


def by_legend(
    where: str, pixels: NDArray[np.uint8], legend: Mapping[Colour, int], tolerance: int
) -> NDArray[Any]:
    """Replaces colours by label ids.

    Args:
        where: Name for messages.
        pixels: ``(z, y, x)`` gray or ``(z, y, x, 3)`` colour.
        legend: Colour -> label id; 0 is background, and black is where nothing else is.
        tolerance: Largest difference per channel to the nearest listed colour.

    Returns:
        ``(z, y, x)`` label map of uint8, or uint16 if an id of the legend needs it.

    Raises:
        UserError: An empty or invalid legend, or a colour that it does not list.
    """
    colours, ids = _checked(where, legend)
    result: NDArray[Any] = np.zeros(pixels.shape[:3], np.uint8 if ids.max() <= 255 else np.uint16)
    unknown: Counter[int] = Counter()
    for z, plane in enumerate(pixels):
        codes = _codes(plane)
        left = np.ones(codes.shape, np.bool_)
        for colour, label in zip(_codes(colours[None])[0], ids, strict=True):
            hit = codes == colour
            result[z][hit] = label
            left &= ~hit
        if not left.any():
            continue
        others, inverse, counts = np.unique(codes[left], return_inverse=True, return_counts=True)
        found = np.array([_nearest(int(code), colours, ids, tolerance) for code in others])
        odd = found < 0
        unknown.update(dict(zip(others[odd].tolist(), counts[odd].tolist(), strict=True)))
        result[z][left] = np.maximum(found, 0)[inverse]
    if unknown:
        raise UserError(
            f"{where}: {len(unknown)} colours are not in the legend ({describe_colours(unknown)}); "
            "add them, with id 0 for background, or allow a tolerance"
        )
    return result


def _checked(
    where: str, legend: Mapping[Colour, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The legend as arrays ``(n, 3)`` and ``(n,)``."""
    if not legend:
        raise UserError(f"{where}: form colours needs a legend: colour (r, g, b) and label id")
    entries = dict(legend)
    if 0 not in entries.values():
        entries.setdefault((0, 0, 0), 0)
    for colour, label in entries.items():
        if len(colour) != 3 or not all(0 <= c <= 255 for c in colour):
            raise UserError(f"{where}: {colour} in the legend is not three values of 0 to 255")
        if not 0 <= label <= MAX_LABEL_ID:
            raise UserError(f"{where}: label id {label} in the legend is not 0 to {MAX_LABEL_ID}")
    return np.array(list(entries), np.int64), np.array(list(entries.values()), np.int64)


def _nearest(code: int, colours: NDArray[np.int64], ids: NDArray[np.int64], tolerance: int) -> int:
    """Label id of a colour; -1 where none is near enough, or two are equally near."""
    colour = np.array([code >> 16, code >> 8 & 255, code & 255])
    distances = np.abs(colours - colour).max(axis=1)
    nearest = int(distances.min())
    labels = set(ids[distances == nearest].tolist())
    return int(labels.pop()) if nearest <= tolerance and len(labels) == 1 else -1


def _codes(plane: NDArray[Any]) -> NDArray[np.uint32]:
    """``(y, x)`` gray or ``(y, x, 3)`` colour as one number 0xrrggbb."""
    wide = plane.astype(np.uint32)
    if plane.ndim == 2:
        return wide * np.uint32(0x010101)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], np.uint32)


def colour_counts(pixels: NDArray[np.uint8]) -> Counter[int]:
    """Pixels of every colour 0xrrggbb of ``(z, y, x, 3)``."""
    counts: Counter[int] = Counter()
    for plane in pixels:
        codes, numbers = np.unique(_codes(plane), return_counts=True)
        counts.update(dict(zip(codes.tolist(), numbers.tolist(), strict=True)))
    return counts


def describe_colours(counts: Counter[int]) -> str:
    """The most common colours with their pixel counts, for messages."""
    shown = ", ".join(f"#{code:06x}: {n} pixels" for code, n in counts.most_common(_SHOWN))
    return shown + (", ..." if len(counts) > _SHOWN else "")
