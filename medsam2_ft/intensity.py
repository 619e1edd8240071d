"""From source intensities to the 0-255 values that the model sees, one rule per modality.

CT takes a window, scaled by the window's own bounds (not by what the volume happens to contain);
MR and PET take the 0.5-99.5 percentiles of the non-zero voxels, with zero staying zero; everything
else keeps uint8 and is otherwise scaled from its own minimum and maximum. All work is done slice
by slice in float32, so that memory besides input and output does not grow with the volume.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.types import IntensityRule

CT_WINDOWS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "soft_tissue": (40.0, 400.0),
        "lung": (-160.0, 1500.0),
        "brain": (40.0, 80.0),
        "bone": (400.0, 1800.0),
    }
)
"""Level and width in Hounsfield units."""

PERCENTILES = (0.5, 99.5)
_KINDS = ("window", "percentile", "minmax", "keep")


def rule_for_modality(
    modality: str | None,
    window: str | tuple[float, float] | None = None,
    dtype: DTypeLike = np.uint8,
) -> IntensityRule:
    """Chooses the rule for images of one modality.

    Args:
        modality: One of ``MODALITIES``, or None where it is not known.
        window: A name from ``CT_WINDOWS`` (CT only), ``(level, width)``, or the text
            ``"level/width"``, which apply to any modality (a PET's SUV range, for instance);
            None takes the modality's own rule, for CT the soft tissue window.
        dtype: Type of the source: decides between ``keep`` and ``minmax`` where neither a window
            nor percentiles apply.

    Raises:
        UserError: Unknown window name, a CT window's name for another modality, or a width that
            is not positive.
    """
    if window is None and modality == "CT":
        window = "soft_tissue"
    if window is not None:
        level, width = _level_and_width(window, modality)
        return IntensityRule("window", level - width / 2, level + width / 2)
    if modality in ("MR", "PET"):
        return IntensityRule("percentile", *PERCENTILES)
    return IntensityRule("keep" if np.dtype(dtype) == np.uint8 else "minmax")


def _level_and_width(
    window: str | tuple[float, float], modality: str | None
) -> tuple[float, float]:
    given: Sequence[Any]
    if isinstance(window, str):
        name = window.strip().lower().replace(" ", "_").replace("-", "_")
        if name in CT_WINDOWS:
            if modality not in ("CT", None):
                raise UserError(
                    f"window {window!r} is a CT window and the modality is {modality}; "
                    "give level/width in the image's own units instead"
                )
            return CT_WINDOWS[name]
        given = window.split("/")
    else:
        given = window
    try:
        level, width = (float(value) for value in given)
    except (TypeError, ValueError):
        level = width = math.nan
    if not (math.isfinite(level) and math.isfinite(width) and width > 0):
        raise UserError(
            f"window {window!r} is not understood; give one of {', '.join(CT_WINDOWS)} "
            "or level/width with a width above 0, such as 40/400"
        )
    return level, width


def parse_rule(text: str) -> IntensityRule:
    """Reads what ``IntensityRule.to_json`` wrote.

    Raises:
        ValueError: The text is not such a rule.
    """
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.get("kind") not in _KINDS:
        raise ValueError(f"not an intensity rule: {text[:80]!r}")
    try:
        lower, upper = float(fields.get("lower", 0.0)), float(fields.get("upper", 0.0))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"bounds are not numbers: {text[:80]!r}") from error
    rule = IntensityRule(fields["kind"], lower, upper)
    _check_bounds(rule)
    return rule


def _check_bounds(rule: IntensityRule) -> None:
    if rule.kind in ("minmax", "keep"):
        return
    finite = math.isfinite(rule.lower) and math.isfinite(rule.upper)
    if not finite or rule.lower >= rule.upper:
        raise UserError(
            f"intensity rule {rule.to_json()}: lower must be below upper, both finite; "
            "correct the rule or prepare the case again"
        )
    if rule.kind == "percentile" and not 0 <= rule.lower < rule.upper <= 100:
        raise UserError(
            f"intensity rule {rule.to_json()}: percentiles lie between 0 and 100; "
            "correct the rule or prepare the case again"
        )


def apply_rule(array: NDArray[Any], rule: IntensityRule) -> NDArray[np.uint8]:
    """Maps source intensities to uint8.

    ``window`` maps its bounds to 0 and 255; ``minmax`` the volume's own extremes; ``percentile``
    the percentiles of the non-zero voxels (linear interpolation, as ``numpy.percentile``), while
    zero stays zero. ``keep`` returns uint8 as it is (the same object) and treats any other type
    as ``minmax``. Values are rounded to the nearest integer.

    Where the range is empty: a constant volume becomes 0 by ``minmax``; by ``percentile``, when
    both percentiles coincide (a constant object on zero), the voxels at or above that value
    become 255 and the others 0. An all-zero and an empty array give zeros.

    Args:
        array: ``(z, y, x)`` or ``(z, y, x, 3)``, any real dtype.
        rule: What to do.

    Returns:
        uint8 array of the same shape.

    Raises:
        UserError: The array holds NaN, an infinity or values beyond float32, or the rule's
            bounds are no range.
    """
    _check_bounds(rule)
    if rule.kind == "keep" and array.dtype == np.uint8:
        return cast(NDArray[np.uint8], array)
    if rule.kind == "window":
        lower, upper = rule.lower, rule.upper
    elif rule.kind == "percentile":
        lower, upper = _percentiles_of_nonzero(array, (rule.lower, rule.upper))
    else:
        lower, upper = _extremes(array)
    result = np.empty(array.shape, np.uint8)
    for z, values in enumerate(_slices_float32(array)):
        scaled = _scale(values, lower, upper, step=rule.kind == "percentile")
        if rule.kind == "percentile":
            scaled[values == 0] = 0
        result[z] = scaled
    return result


def _scale(
    values: NDArray[np.float32], lower: float, upper: float, *, step: bool
) -> NDArray[np.float32]:
    """Scales [lower, upper] to 0-255; an empty range is a step at ``upper``, or 0 throughout."""
    # halved before they are subtracted: the range of float32 values need not fit a float32
    width = np.float32(upper * 0.5 - lower * 0.5)
    scaled: NDArray[np.float32]
    if upper > lower and width >= np.finfo(np.float32).tiny:
        half = np.clip(values, np.float32(lower), np.float32(upper)) * np.float32(0.5)
        scaled = (half - np.float32(lower * 0.5)) / width * np.float32(255.0)
    else:
        scaled = np.where(values >= upper, np.float32(255.0 if step else 0.0), np.float32(0.0))
    return np.rint(scaled, out=scaled)


def _slices_float32(array: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    """Yields one slice after the other as float32.

    Raises:
        UserError: A slice is not finite.
    """
    for plane in array:
        with np.errstate(over="ignore"):  # the overflow shows as an infinity below
            values = plane.astype(np.float32)
        if not np.isfinite(values).all():
            raise UserError(
                "image holds NaN, an infinity or a value beyond 3.4e38; "
                "repair it, for example with numpy.nan_to_num"
            )
        yield values


def _extremes(array: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest value as float32; (0, 0) of an empty array."""
    lows, highs = [], []
    for values in _slices_float32(array):
        if values.size:
            lows.append(float(values.min()))
            highs.append(float(values.max()))
    return (min(lows), max(highs)) if lows else (0.0, 0.0)


def _percentiles_of_nonzero(
    array: NDArray[Any], percents: tuple[float, float]
) -> tuple[float, float]:
    """Percentiles of the non-zero values, exact, in bounded memory; (0, 0) where there are none.

    A float32's bits, with the sign folded in, sort as its values do. Two counting passes, over the
    upper and the lower 16 bits, therefore find any order statistic without a copy of the volume.
    """
    high_counts = np.zeros(1 << 16, np.int64)
    for codes in _nonzero_codes(array):
        high_counts += np.bincount(codes >> 16, minlength=1 << 16)
    total = int(high_counts.sum())
    if total == 0:
        return 0.0, 0.0
    positions = [(total - 1) * percent / 100 for percent in percents]
    ranks = sorted({rank for p in positions for rank in (math.floor(p), math.ceil(p))})
    values = dict(zip(ranks, _order_statistics(array, high_counts, ranks), strict=True))
    lower, upper = (
        values[math.floor(p)] + (values[math.ceil(p)] - values[math.floor(p)]) * (p % 1)
        for p in positions
    )
    return lower, upper


def _order_statistics(
    array: NDArray[Any], high_counts: NDArray[np.int64], ranks: Sequence[int]
) -> list[float]:
    """The values of the given 0-based ranks among the non-zero values, ascending."""
    cumulated = np.cumsum(high_counts)
    bins = [int(np.searchsorted(cumulated, rank, side="right")) for rank in ranks]
    low_counts = {high: np.zeros(1 << 16, np.int64) for high in bins}
    for codes in _nonzero_codes(array):
        for high, counts in low_counts.items():
            counts += np.bincount(codes[codes >> 16 == high] & 0xFFFF, minlength=1 << 16)
    found = []
    for rank, high in zip(ranks, bins, strict=True):
        before = int(cumulated[high] - high_counts[high])
        low = int(np.searchsorted(np.cumsum(low_counts[high]), rank - before, side="right"))
        found.append(_decode((high << 16) | low))
    return found


def _nonzero_codes(array: NDArray[Any]) -> Iterator[NDArray[np.int64]]:
    """Per slice, the sortable 32-bit codes of the non-zero values."""
    for values in _slices_float32(array):
        bits = values[values != 0].view(np.int32).astype(np.int64)
        yield np.where(bits >= 0, bits + (1 << 31), (1 << 31) - 1 - (bits & 0x7FFFFFFF))


def _decode(code: int) -> float:
    bits = code - (1 << 31) if code >= 1 << 31 else ((1 << 31) - 1 - code) | (1 << 31)
    return float(np.array([bits], np.uint32).view(np.float32)[0])


def label_ids(label_map: NDArray[Any]) -> tuple[int, ...]:
    """Label ids that occur in an unsigned map, ascending, without the background 0.

    Args:
        label_map: Unsigned integers of any shape, at least one axis; one slice after the other is
            looked at.

    Returns:
        Empty for an empty or label-free map.
    """
    found: set[int] = set()
    for plane in label_map:
        if plane.size and plane.max():
            found.update(np.unique(plane).tolist())
    return tuple(sorted(found - {0}))
