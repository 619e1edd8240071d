"""Masks that may overlap become label maps: as few as first fit finds, usually one."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.io.checks import MAX_LABEL_ID

_Box = tuple[slice, slice, slice]


def pack_masks(
    shape: tuple[int, int, int], masks: Iterable[tuple[int, NDArray[np.bool_]]]
) -> tuple[NDArray[Any], ...]:
    """Draws masks into label maps, one mask after the other.

    A mask goes into the first map in which it meets no other, so that disjoint masks share one
    map. Only one mask is held at a time: ``masks`` may be a generator that reads files.

    Args:
        shape: ``(z, y, x)`` of every mask.
        masks: Label ids from 1 to 65535, each at most once, with their masks. An empty mask leaves
            no trace.

    Returns:
        One or more ``(z, y, x)`` maps; uint8, those that hold an id above 255 uint16. One map of
        zeros where there is nothing to draw.

    Raises:
        ValueError: A mask of another shape, or an id that is out of range or came before.
    """
    maps: list[NDArray[Any]] = []
    seen: set[int] = set()
    for label, mask in masks:
        if mask.shape != shape:
            raise ValueError(f"mask {label} has shape {mask.shape}, not {shape}")
        if not 1 <= label <= MAX_LABEL_ID or label in seen:
            raise ValueError(f"label id {label} is out of range or came before")
        seen.add(label)
        box = bounding_box(mask)
        if box is not None:
            _draw(maps, label, mask[box], box, shape)
    return tuple(maps) or (np.zeros(shape, np.uint8),)


def bounding_box(mask: NDArray[np.bool_]) -> _Box | None:
    """Returns the smallest box that holds all of a ``(z, y, x)`` mask; None for an empty mask."""
    slices_hit = np.flatnonzero([plane.any() for plane in mask])
    if not slices_hit.size:
        return None
    z = slice(int(slices_hit[0]), int(slices_hit[-1]) + 1)
    flat = np.logical_or.reduce(mask[z], axis=0)
    rows, columns = np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
    return (
        z,
        slice(int(rows[0]), int(rows[-1]) + 1),
        slice(int(columns[0]), int(columns[-1]) + 1),
    )


def _draw(
    maps: list[NDArray[Any]],
    label: int,
    mask: NDArray[np.bool_],
    box: _Box,
    shape: tuple[int, int, int],
) -> None:
    """Writes the id into the first map that is free under the mask, or into a new one."""
    dtype = np.dtype(np.uint8 if label <= 255 else np.uint16)
    index = next(
        (i for i, m in enumerate(maps) if not (m[box].astype(np.bool_) & mask).any()), len(maps)
    )
    if index == len(maps):
        maps.append(np.zeros(shape, dtype))
    elif maps[index].dtype.itemsize < dtype.itemsize:
        maps[index] = maps[index].astype(dtype)
    np.copyto(maps[index][box], label, where=mask)
