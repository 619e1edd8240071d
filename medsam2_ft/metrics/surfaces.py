"""Surface elements of a mask: where they are and how large, by surface-distance's definition."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float64, Int, UInt8
from numpy.typing import NDArray

Spacing = tuple[float, float, float]
# Corners that are coded at a time, so that the intermediate arrays stay in a core's cache.
_SLAB_CORNERS = 1 << 17


@dataclass(frozen=True)
class Surface:
    """The surface elements of a mask; they lie on voxel corners.

    Attributes:
        is_element: Whether a corner is an element, with a margin of corners that are none.
        index: Flat indices of the elements in ``is_element``, ascending.
        codes: Which of an element's neighbours are inside, as surface-distance codes them: the
            highest bit for the lowest index on every axis.
    """

    is_element: Bool[np.ndarray, "z y x"]
    index: Int[np.ndarray, " n"]
    codes: UInt8[np.ndarray, " n"]


def find_surface(
    mask: Bool[np.ndarray, "z y x"], margin: tuple[int, int, int], planar: bool
) -> Surface:
    """Finds the corners whose neighbours are neither all inside nor all outside.

    Args:
        mask: What lies beyond it is outside.
        margin: Corners added on both sides of each axis.
        planar: Whether each slice is an image by itself with 4 neighbours to a corner, not 8. Its
            codes are those of a slab that goes on forever in z.
    """
    depth = len(mask) if planar else len(mask) + 1
    rows, columns = (n + 1 + 2 * m for n, m in zip(mask.shape[1:], margin[1:], strict=True))
    size = rows * columns
    is_element = np.zeros((depth + 2 * margin[0], rows, columns), bool)
    indices, codes = [np.zeros(0, np.intp)], [np.zeros(0, np.uint8)]
    step = max(1, min(depth, _SLAB_CORNERS // size))
    # Rows and slices follow each other without a gap, so that a neighbour is a fixed step away. At
    # the end of a row it is the begin of the next one, which lies outside the mask as well.
    flat = np.zeros((step + 1) * size + columns + 1, np.uint8)
    for start in range(0, depth, step):
        count = min(step, depth - start)
        first = start if planar else start - 1
        _fill(flat[: (step + 1) * size].reshape(step + 1, rows, columns), mask, first, margin)
        slab = _codes(flat, count * size, columns, 0 if planar else size)
        origin = (margin[0] + start) * size
        elements = is_element.reshape(-1)[origin : origin + slab.size]
        # All inside is 255, which becomes 0.
        np.greater(slab + np.uint8(1), 1, out=elements)
        found = np.flatnonzero(elements)
        indices.append(found + origin)
        codes.append(slab[found])
    return Surface(is_element, np.concatenate(indices), np.concatenate(codes))


def _fill(
    voxels: NDArray[np.uint8], mask: NDArray[np.bool_], first: int, margin: tuple[int, int, int]
) -> None:
    """Copies slices of the mask from ``first`` on, zeros where there are none."""
    y, x = (slice(m + 1, m + 1 + n) for m, n in zip(margin[1:], mask.shape[1:], strict=True))
    before = max(0, -first)
    slices = mask[max(first, 0) : first + len(voxels)]
    voxels[:before, y, x] = 0
    voxels[before : before + len(slices), y, x] = slices
    voxels[before + len(slices) :, y, x] = 0


def _codes(flat: NDArray[np.uint8], count: int, row: int, layer: int) -> NDArray[np.uint8]:
    """Codes the neighbourhoods of the first ``count`` corners of zeros and ones."""
    pairs = flat[: count + layer + row] << 1
    pairs |= flat[1 : count + layer + row + 1]
    squares = pairs[: count + layer] << 2
    squares |= pairs[row:]
    codes = squares[:count] << 4
    codes |= squares[layer:]
    return np.asarray(codes, np.uint8)


@lru_cache(maxsize=64)
def element_sizes(spacing_mm: Spacing, planar: bool) -> Float64[np.ndarray, "256"]:
    """Returns the area in mm2 (length in mm if planar) of the surface element of each code."""
    from surface_distance import lookup_tables  # type: ignore[import-untyped]  # ships no types

    sizes: NDArray[np.float64]
    if planar:
        lengths = lookup_tables.create_table_neighbour_code_to_contour_length(spacing_mm[1:])
        sizes = lengths[np.arange(256) % 16]
    else:
        sizes = lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm)
    sizes.setflags(write=False)
    return sizes
