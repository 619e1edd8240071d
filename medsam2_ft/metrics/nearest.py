"""Distance from each surface element of one mask to the nearest one of another, exactly."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int, UInt8
from numpy.typing import NDArray

from medsam2_ft.metrics.surfaces import Spacing, Surface

# Offsets up to this many corners on each axis are listed, of which the nearest ones are tried.
_REACH = 12
_MAX_OFFSETS = 400
# Costs in units of one look-up in a bool array (2.5 ns), measured: what a k-d tree needs for an
# element that it holds and for one that it is asked for, and the numpy calls of one ring.
_TREE_BUILD, _TREE_QUERY, _RING = 40, 250, 5000
# How many corners a distance transform handles while a k-d tree gives one answer: the tree is slow
# where it is asked from far away along flat faces, unless it holds few elements.
_CORNERS_PER_QUERY = 300
# With up to this many targets a k-d tree of all is made at once, else one of about 256 first.
_FEW_TARGETS = 1024
_SOME_TARGETS = 256


@dataclass(frozen=True)
class Rings:
    """Offsets between corners, grouped by their length, shortest first.

    Attributes:
        distances_mm: Ascending lengths.
        offsets: For each length all offsets (z, y, x) of that length.
        margin: Largest offset on each axis.
    """

    distances_mm: Float64[np.ndarray, " r"]
    offsets: tuple[Int[np.ndarray, "_ 3"], ...]
    margin: tuple[int, int, int]


@dataclass(frozen=True)
class Found:
    """Elements within the rings, and those beyond.

    Attributes:
        counts: Elements of each code (column) in each ring (row) that was looked at.
        rest: Flat indices of the elements that are farther away than these rings, ascending.
        rest_codes: Their codes.
    """

    counts: Int[np.ndarray, "rings 256"]
    rest: Int[np.ndarray, " n"]
    rest_codes: UInt8[np.ndarray, " n"]


def lengths_mm(offsets: Int[np.ndarray, "n 3"], spacing_mm: Spacing) -> Float64[np.ndarray, " n"]:
    """Returns the lengths of offsets, rounded as scipy's distance transform does."""
    scaled = offsets.T * np.array(spacing_mm)[:, None]
    return np.asarray(np.sqrt(np.add.reduce(scaled * scaled, axis=0)))


@lru_cache(maxsize=64)
def rings_around(spacing_mm: Spacing, planar: bool) -> Rings:
    """Lists the shortest few hundred offsets without a gap, the zero offset first.

    Args:
        spacing_mm: Distance of corners (z, y, x).
        planar: Whether offsets stay within a slice.
    """
    reach = np.array([0 if planar else _REACH, _REACH, _REACH])
    axes = np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij")
    offsets = np.stack(axes, axis=-1).reshape(-1, 3)
    distances = lengths_mm(offsets, spacing_mm)
    shortest_unlisted = (_REACH + 1) * min(spacing_mm[1:] if planar else spacing_mm)
    order = np.argsort(distances, kind="stable")
    order = order[distances[order] < shortest_unlisted]
    lengths, starts = np.unique(distances[order], return_index=True)
    kept = max(1, int(np.searchsorted(starts, _MAX_OFFSETS)) - 1)
    rings = tuple(np.split(offsets[order], starts[1:])[:kept])
    z, y, x = (int(m) for m in np.concatenate(rings).max(axis=0))
    return Rings(lengths[:kept], rings, (z, y, x))


def search_rings(origin: Surface, target: Surface, rings: Rings) -> Found:
    """Looks for the target around every origin, nearest corners first.

    Two similar surfaces are close to each other, so few offsets settle most elements. The search
    ends where a k-d tree would be cheaper for the elements that remain.

    Args:
        origin: Elements whose distances are asked for.
        target: On the same grid, with at least the margin of the rings.
        rings: Offsets to try.
    """
    is_target = target.is_element.reshape(-1)
    _, rows, columns = target.is_element.shape
    index, codes = origin.index, origin.codes
    counts: list[NDArray[np.int64]] = []
    work = 0
    for offsets in rings.offsets:
        steps = offsets @ np.array([rows * columns, columns, 1])
        work += index.size * len(steps) + _RING
        hit = is_target[index + steps[0]]
        for step in steps[1:]:
            hit |= is_target[index + step]
        counts.append(np.bincount(codes[hit], minlength=256))
        index, codes = index[~hit], codes[~hit]
        if work > _TREE_BUILD * target.index.size + _TREE_QUERY * index.size:
            break
    return Found(np.stack(counts), index, codes)


def far_distances(
    origins: Int[np.ndarray, " n"], target: Surface, spacing_mm: Spacing, planar: bool
) -> Float64[np.ndarray, " n"]:
    """Computes the distances in mm that the rings have left open; infinite without a target.

    Args:
        origins: Ascending flat indices of corners in the target's grid.
        target: Surface.
        spacing_mm: Distance of corners (z, y, x).
        planar: Whether only elements in the same slice count.
    """
    distances = np.full(origins.size, np.inf)
    if not origins.size or not target.index.size:
        return distances
    shape = target.is_element.shape
    corners = np.stack(np.unravel_index(origins, shape), axis=1)
    if not planar:
        return _to_targets(corners, target.index, target, spacing_mm)
    size = shape[1] * shape[2]
    slices, starts = np.unique(corners[:, 0], return_index=True)
    stops = [*starts[1:], origins.size]
    for z, start, stop in zip(slices, starts, stops, strict=True):
        first, last = np.searchsorted(target.index, (z * size, (z + 1) * size))
        if first < last:
            targets = target.index[first:last]
            distances[start:stop] = _to_targets(
                corners[start:stop], targets, target, spacing_mm, z_range=(int(z), int(z) + 1)
            )
    return distances


def _to_targets(
    corners: NDArray[np.int64],
    targets: NDArray[np.int64],
    grid: Surface,
    spacing_mm: Spacing,
    z_range: tuple[int, int] | None = None,
) -> NDArray[np.float64]:
    """Distances in mm from ``corners`` (n, 3) to the nearest of ``targets``, one at least."""
    from scipy.ndimage import distance_transform_edt
    from scipy.spatial import cKDTree

    shape, scale = np.array(grid.is_element.shape), np.array(spacing_mm)
    # Some targets tell how far away the nearest one is at most, and so where it can be.
    few = targets.size <= _FEW_TARGETS
    some = targets if few else targets[:: targets.size // _SOME_TARGETS]
    candidates = np.stack(np.unravel_index(some, grid.is_element.shape), axis=1)
    bounds_mm, found = cKDTree(candidates * scale).query(corners * scale)
    if few:
        return lengths_mm(candidates[found] - corners, spacing_mm)
    reach = np.ceil(bounds_mm.max() / scale).clip(max=shape).astype(np.int64) + 1
    low = np.maximum(corners.min(axis=0) - reach, 0)
    high = np.minimum(corners.max(axis=0) + reach + 1, shape)
    if z_range is not None:
        low[0], high[0] = z_range
    inside = grid.is_element[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    corners = corners - low
    per_query = min(_CORNERS_PER_QUERY, 8 + int(np.count_nonzero(inside)) // 10)
    if len(corners) * per_query < inside.size:
        candidates = np.argwhere(inside)
        # The plain tree is built in half the time of scipy's default and answers no slower.
        tree = cKDTree(candidates * scale, balanced_tree=False, compact_nodes=False)
        nearest = candidates[tree.query(corners * scale)[1]]
    else:
        indices = distance_transform_edt(
            ~inside, sampling=spacing_mm, return_distances=False, return_indices=True
        )
        nearest = indices[(slice(None), *corners.T)].T
    return lengths_mm(nearest - corners, spacing_mm)
