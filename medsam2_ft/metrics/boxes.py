"""Boxes around masks and labels."""

from typing import Any

import numpy as np
from jaxtyping import Integer, Shaped
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]
MAX_LABEL = 65535
_NOWHERE: Box = (slice(0, 0), slice(0, 0), slice(0, 0))
# Slices that are looked at together: a tight box around what they hold leaves out much background.
_SLAB = 16


def union_box(*boxes: Box | None) -> Box:
    """Returns the smallest box around all boxes; one of no size if there are none."""
    known = [box for box in boxes if box is not None]
    if not known:
        return _NOWHERE
    z, y, x = (
        slice(min(s.start for s in sides), max(s.stop for s in sides))
        for sides in zip(*known, strict=True)
    )
    return z, y, x


def occupied_box(array: Shaped[np.ndarray, "z y x"]) -> Box | None:
    """Returns the smallest box around what is not zero (or not False), None if nothing is."""
    layers = np.flatnonzero(array.any(axis=(1, 2)))
    if not layers.size:
        return None
    z = slice(int(layers[0]), int(layers[-1]) + 1)
    # Bits in common are of no interest: "or" is the fastest way to see what is not zero anywhere.
    plane = np.bitwise_or.reduce(array[z], axis=0)
    rows, columns = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
    y, x = (slice(int(found[0]), int(found[-1]) + 1) for found in (rows, columns))
    return z, y, x


def label_boxes(label_map: Integer[np.ndarray, "z y x"]) -> dict[int, Box]:
    """Returns the smallest box around each label id except 0, in one pass over the map.

    Raises:
        ValueError: An id is negative or above 65535.
    """
    boxes: dict[int, Box] = {}
    for start in range(0, len(label_map), _SLAB):
        slab = label_map[start : start + _SLAB]
        outer = occupied_box(slab)
        if outer is None:
            continue
        for label, box in _boxes_in(slab[outer]).items():
            moved = tuple(
                slice(side.start + base.start + first, side.stop + base.start + first)
                for side, base, first in zip(box, outer, (start, 0, 0), strict=True)
            )
            boxes[label] = union_box(boxes.get(label), (moved[0], moved[1], moved[2]))
    return boxes


def _boxes_in(labels: NDArray[Any]) -> dict[int, Box]:
    from scipy.ndimage import find_objects

    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > MAX_LABEL:
        raise ValueError(f"label ids must be 0 to {MAX_LABEL}, got {low} to {high}.")
    found = enumerate(find_objects(labels, max_label=high), start=1)
    return {label: box for label, box in found if box is not None}
