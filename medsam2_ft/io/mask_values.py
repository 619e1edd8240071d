"""From the values of a mask to label maps, by the rules that ``LabelValues`` documents."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.checks import as_label_map, finite_range
from medsam2_ft.io.label_values import ZERO_LABEL, LabelValues
from medsam2_ft.io.mask_colours import by_legend, colour_counts, describe_colours
from medsam2_ft.io.pack import pack_masks
from medsam2_ft.types import Geometry

ONE_COLOUR = re.compile(r"colour (#[0-9a-f]{6}) is label 1")
"""The note that the only colour of a file was taken for label 1."""

_DARK, _BRIGHT = 32, 223
_MIDDLE = 127.5
_TOLERANCE = 1e-3
Maps = tuple[NDArray[Any], ...]
Notes = tuple[str, ...]


@dataclass(frozen=True)
class StoredMask:
    """A mask as its file stores it.

    Attributes:
        where: Name for messages.
        array: ``(z, y, x)``, or ``(z, y, x, c)``.
        axes: What the last axis of a 4-D array is; ``gray`` where there is none.
        indices: ``(z, y, x)`` palette indices, if the file has a palette.
        is_picture: Whether full scale (255 of 8 bits) is likely to mean "yes".
        lossy: Whether values went through a lossy compression.
        geometry: The grid.
        has_geometry: Whether the file says where the grid lies.
        notes: Of the reader.
    """

    where: str
    array: NDArray[Any]
    axes: Literal["gray", "colour", "layers"] = "gray"
    indices: NDArray[Any] | None = None
    is_picture: bool = False
    lossy: bool = False
    geometry: Geometry = field(default_factory=Geometry)
    has_geometry: bool = True
    notes: tuple[str, ...] = ()


def label_maps(mask: StoredMask, values: LabelValues) -> tuple[Maps, Notes]:
    """Applies the rules.

    Returns:
        One or more ``(z, y, x)`` maps of uint8 or uint16, and what had to be decided.

    Raises:
        UserError: The file does not have the form that is asked for, holds values that are no
            label, or could be read in two ways.
    """
    form = values.form
    if form == "auto":
        form = _stated_form(values)
    if form == "auto":
        return _AUTO[mask.axes](mask)
    if form == "ids":
        return _ids(mask, values.background)
    if form == "binary":
        return _binary(mask, values.threshold)
    if form == "colours":
        return _colours(mask, values)
    return _channels(mask)


def _stated_form(values: LabelValues) -> Literal["auto", "ids", "binary", "colours"]:
    if values.legend:
        return "colours"
    if values.threshold is not None:
        return "binary"
    return "auto" if values.background == (0.0,) else "ids"


def _auto_gray(mask: StoredMask) -> tuple[Maps, Notes]:
    if mask.lossy:
        return _auto_lossy(mask)
    array = mask.array
    if not mask.is_picture or array.dtype not in (np.uint8, np.uint16):
        return _ids(mask, (0.0,))
    white = int(np.iinfo(array.dtype).max)
    present = _present(array)
    if present <= {0, white}:
        return (np.asarray(array == white).view(np.uint8),), ()
    shown = ", ".join(map(str, sorted(present)[:8])) + (" ..." if len(present) > 8 else "")
    if white in present:
        raise UserError(
            f"{mask.where}: values {shown}: white ({white}) may be a label, the background or "
            "simply 'yes'; choose form ids (with background, if it is not 0) or binary"
        )
    if mask.indices is not None and not np.array_equal(mask.indices, array):
        raise UserError(
            f"{mask.where}: its palette shows the indices as the gray values {shown}; choose form "
            "ids, which takes the indices, or colours with a legend"
        )
    maps, notes = _ids(mask, (0.0,))
    return maps, (*notes, *_doubtful_background(array))


def _doubtful_background(array: NDArray[Any]) -> Notes:
    """Says so where another value than 0 fills most of a picture, as a background does."""
    counts = np.bincount(array.ravel())
    common = int(counts.argmax())
    if common == 0 or 2 * counts[common] <= array.size:
        return ()
    share = 100 * counts[common] // array.size
    return (f"label {common} fills {share} % of the picture: is it the background?",)


def _present(array: NDArray[Any]) -> set[int]:
    """Values of an unsigned array."""
    found: set[int] = set()
    for plane in array:
        found.update(np.flatnonzero(np.bincount(plane.ravel())).tolist())
    return found


def _auto_lossy(mask: StoredMask) -> tuple[Maps, Notes]:
    array = mask.array
    if array.dtype != np.uint8:
        raise UserError(f"{mask.where}: lossy compression of {array.dtype}; save it lossless")
    between = sum(int(((plane > _DARK) & (plane < _BRIGHT)).sum()) for plane in array)
    if between:
        raise UserError(
            f"{mask.where}: the lossy picture has {between} pixels of values between dark and "
            "bright; choose form binary with a threshold, or save the mask as PNG"
        )
    note = f"lossy mask: values above {_MIDDLE} are label 1"
    return (np.asarray(array > _MIDDLE).view(np.uint8),), (note,)


def _auto_colour(mask: StoredMask) -> tuple[Maps, Notes]:
    counts = colour_counts(mask.array)
    others = [colour for colour in counts if colour != 0]
    if len(others) == 1 and not mask.lossy:
        foreground = np.asarray(mask.array.any(axis=-1))
        return (foreground.view(np.uint8),), (f"colour #{others[0]:06x} is label 1",)
    advice = "choose form colours with a legend"
    if mask.indices is not None:
        advice += ", or ids, which takes the palette's indices"
    if mask.lossy:
        advice += " and a tolerance, for the compression is lossy"
    raise UserError(
        f"{mask.where}: holds {len(counts)} colours ({describe_colours(counts)}); {advice}"
    )


def _auto_layers(mask: StoredMask) -> tuple[Maps, Notes]:
    filled = np.zeros(mask.array.shape[:3], np.uint16)
    for index, layer in _layers(mask):
        if layer.max() > 1:
            raise UserError(
                f"{mask.where}: channel {index} of {mask.array.shape[-1]} holds values up to "
                f"{int(layer.max())}, not only 0 and 1; save one 3D label map, or choose form "
                "channels, which takes whatever is not 0"
            )
        filled += layer
    if (filled == 1).all():
        raise UserError(
            f"{mask.where}: its {mask.array.shape[-1]} channels fill the volume without overlap, "
            "so that one of them must be the background; choose form channels and drop its label"
        )
    return _channels(mask)


_AUTO = {"gray": _auto_gray, "colour": _auto_colour, "layers": _auto_layers}


def _ids(mask: StoredMask, background: tuple[float, ...]) -> tuple[Maps, Notes]:
    array = mask.array if mask.indices is None else mask.indices
    if array.ndim != 3:
        raise UserError(
            f"{mask.where}: has {array.shape[-1]} channels, which are no ids; choose form colours "
            "with a legend, or channels"
        )
    notes = ("lossy compression: ids may be wrong where it changed values",) if mask.lossy else ()
    if background == (0.0,):
        return (as_label_map(mask.where, array),), notes
    cleaned = array.astype(np.uint8) if array.dtype == np.bool_ else array.copy()
    zero = _equals(array, 0.0)
    for value in background:
        matches = _equals(array, value)
        cleaned[matches] = 0
        zero &= ~matches
    labels = as_label_map(mask.where, cleaned)
    if not zero.any():
        return (labels,), notes
    if (labels == ZERO_LABEL).any():
        raise UserError(
            f"{mask.where}: 0 is no background here and would become label {ZERO_LABEL}, which "
            "the file holds too; add 0 to the background, or save 0 under another value"
        )
    labels = labels.astype(np.uint16)
    labels[zero] = ZERO_LABEL
    return (labels,), (*notes, f"0 is not the background and became label {ZERO_LABEL}")


def _equals(array: NDArray[Any], value: float) -> NDArray[np.bool_]:
    """Where an array holds a value; floats within the rounding that scaled files show."""
    if array.dtype.kind == "f":
        return np.asarray(np.abs(array - value) <= _TOLERANCE)
    if not float(value).is_integer():
        return np.zeros(array.shape, np.bool_)
    return np.asarray(array == int(value))


def _binary(mask: StoredMask, threshold: float | None) -> tuple[Maps, Notes]:
    if mask.axes == "layers":
        raise UserError(
            f"{mask.where}: has {mask.array.shape[-1]} channels; save the one that is meant, or "
            "choose form channels"
        )
    array = mask.array.max(axis=-1) if mask.axes == "colour" else mask.array
    if array.dtype == np.bool_:
        return (array.view(np.uint8),), ()
    low, high = finite_range(mask.where, array)
    if threshold is None:
        fractions = array.dtype.kind == "f" and high <= 1
        threshold = _MIDDLE if mask.lossy else 0.5 if fractions else (min(low, 0.0) + high) / 2
    found = np.asarray(array > threshold).view(np.uint8)
    return (found,), (f"values above {threshold:g} are label 1 (they range {low:g} to {high:g})",)


def _colours(mask: StoredMask, values: LabelValues) -> tuple[Maps, Notes]:
    if mask.axes == "layers" and mask.array.shape[-1] != 3:
        raise UserError(
            f"{mask.where}: has {mask.array.shape[-1]} channels, which are no colours; choose "
            "form channels"
        )
    array = mask.array
    if array.dtype == np.bool_:
        array = array.view(np.uint8) * np.uint8(255)
    if array.dtype != np.uint8:
        raise UserError(
            f"{mask.where}: values of type {array.dtype} are no 8-bit colours; choose form ids"
        )
    return (by_legend(mask.where, array, values.legend, values.tolerance),), ()


def _channels(mask: StoredMask) -> tuple[Maps, Notes]:
    z, y, x = mask.array.shape[:3]
    masks = ((index + 1, layer != 0) for index, layer in _layers(mask))
    return pack_masks((z, y, x), masks), ()


def _layers(mask: StoredMask) -> Iterator[tuple[int, NDArray[Any]]]:
    array = mask.array if mask.array.ndim == 4 else mask.array[..., None]
    for index in range(array.shape[-1]):
        yield index, as_label_map(f"{mask.where}: channel {index}", array[..., index])
