"""Overlap and surface metrics of binary masks, in millimetres.

Definitions are those of DeepMind's ``surface-distance``: surfaces are made of surface elements
(marching cubes on 2x2x2 neighbourhoods) that are weighted by their area. Its lookup tables are
used as they are; its computation is not, because it sorts in Python and calls numpy and scipy by
names that newer releases drop. Results are equal to the last bit, which the tests check.

Empty masks, everywhere: both empty gives ``empty_value`` (NaN unless said otherwise; the
challenges count it as 1); one empty gives a DSC and NSD of 0 and an infinite HD95, because a
missed object must not raise a mean.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between two surfaces, from which NSD and HD95 follow.

    Each pair of arrays has one entry per surface element, sorted by distance. Areas are lengths in
    mm for a 2D image. A surface that does not exist has no elements; the distances to it are
    infinite.

    Attributes:
        truth_to_pred_mm: From each surface element of the truth to the predicted surface.
        truth_areas_mm2: Their areas.
        pred_to_truth_mm: From each surface element of the prediction to the true surface.
        pred_areas_mm2: Their areas.
    """

    truth_to_pred_mm: Float[np.ndarray, " t"]
    truth_areas_mm2: Float[np.ndarray, " t"]
    pred_to_truth_mm: Float[np.ndarray, " p"]
    pred_areas_mm2: Float[np.ndarray, " p"]


def dice(
    pred: Bool[np.ndarray, "*axes"],
    truth: Bool[np.ndarray, "*axes"],
    empty_value: float = math.nan,
) -> float:
    """Dice similarity coefficient ``2 |p & t| / (|p| + |t|)`` in [0, 1].

    Args:
        pred: Predicted mask.
        truth: True mask of the same shape.
        empty_value: What two empty masks give.

    Raises:
        ValueError: The shapes differ.
    """
    _check_shapes(pred, truth)
    voxels = np.count_nonzero(pred) + np.count_nonzero(truth)
    if voxels == 0:
        return empty_value
    return 2 * int(np.count_nonzero(pred & truth)) / int(voxels)


def surface_distances(
    pred: Bool[np.ndarray, "z y x"],
    truth: Bool[np.ndarray, "z y x"],
    spacing_mm: tuple[float, float, float],
) -> SurfaceDistances:
    """Computes the distances from each surface to the other one.

    Work is done within the union of the two bounding boxes. An array with ``z == 1`` is a 2D image
    and gets the two-dimensional definition (contours, weighted by their length).

    Args:
        pred: Predicted mask.
        truth: True mask on the same grid.
        spacing_mm: Voxel size in array order (z, y, x).

    Raises:
        ValueError: The shapes differ, or the spacing is not three positive numbers.
    """
    _check_shapes(pred, truth)
    if len(spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise ValueError(f"spacing_mm must be three positive numbers (z, y, x), got {spacing_mm}.")
    spacing = tuple(float(s) for s in spacing_mm)
    if pred.shape[0] == 1:
        pred, truth, spacing = pred[0], truth[0], spacing[1:]
    box = _union_box(pred, truth)
    codes_pred, codes_truth = _neighbour_codes(pred[box]), _neighbour_codes(truth[box])
    areas = _area_of_code(spacing)
    border_pred, border_truth = areas[codes_pred] > 0, areas[codes_truth] > 0
    to_pred = _distances(border_truth, border_pred, spacing)
    to_truth = _distances(border_pred, border_truth, spacing)
    return SurfaceDistances(
        *_sorted(to_pred, areas[codes_truth[border_truth]]),
        *_sorted(to_truth, areas[codes_pred[border_pred]]),
    )


def pool_frames(
    pred: Bool[np.ndarray, "t y x"],
    truth: Bool[np.ndarray, "t y x"],
    spacing_mm: tuple[float, float, float],
) -> SurfaceDistances:
    """Computes the distances between contours frame by frame and puts those of all together.

    Args:
        pred: Predicted mask of a video.
        truth: True mask on the same grid.
        spacing_mm: Pixel size in array order; the first entry plays no part.

    Raises:
        ValueError: The shapes differ, or the spacing is not three positive numbers.
    """
    _check_shapes(pred, truth)
    frames = [
        surface_distances(pred[t : t + 1], truth[t : t + 1], spacing_mm) for t in range(len(pred))
    ]
    none = np.zeros(0)
    joined = [
        np.concatenate([none, *(getattr(frame, field.name) for frame in frames)])
        for field in fields(SurfaceDistances)
    ]
    return SurfaceDistances(*_sorted(*joined[:2]), *_sorted(*joined[2:]))


def normalized_surface_dice(
    distances: SurfaceDistances, tolerance_mm: float, empty_value: float = math.nan
) -> float:
    """Share of both surfaces, by area, that lies within ``tolerance_mm`` of the other, in [0, 1].

    Args:
        distances: From ``surface_distances``.
        tolerance_mm: Largest distance that still counts as agreement, inclusive.
        empty_value: What two empty masks give.
    """
    d = distances
    total = float(d.truth_areas_mm2.sum() + d.pred_areas_mm2.sum())
    if total == 0:
        return empty_value
    near = d.truth_areas_mm2[d.truth_to_pred_mm <= tolerance_mm].sum()
    near += d.pred_areas_mm2[d.pred_to_truth_mm <= tolerance_mm].sum()
    return float(near) / total


def hausdorff_95(distances: SurfaceDistances, empty_value: float = math.nan) -> float:
    """Robust Hausdorff distance in mm.

    The larger of the two 95th percentiles (by area) of the surface distances; infinite if one mask
    is empty.

    Args:
        distances: From ``surface_distances``.
        empty_value: What two empty masks give.
    """
    d = distances
    if d.truth_to_pred_mm.size == 0 and d.pred_to_truth_mm.size == 0:
        return empty_value
    return max(
        _percentile_95(d.truth_to_pred_mm, d.truth_areas_mm2),
        _percentile_95(d.pred_to_truth_mm, d.pred_areas_mm2),
    )


def _check_shapes(pred: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
    if pred.shape != truth.shape:
        raise ValueError(f"masks must share a grid, got {pred.shape} and {truth.shape}.")


def _union_box(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Smallest box around both masks; empty slices if both are empty."""
    box: list[slice] = []
    for axis in range(a.ndim):
        # Cropping axis by axis makes the later projections cheaper.
        inner = tuple(box)
        others = tuple(k for k in range(a.ndim) if k != axis)
        occupied = np.flatnonzero(a[inner].any(axis=others) | b[inner].any(axis=others))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1) if occupied.size else slice(0, 0))
    return tuple(box)


def _neighbour_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Codes the 2x2(x2) neighbourhood of every voxel corner, outside counting as background.

    The bit of a neighbour is that of surface-distance's kernels: the highest one for the lowest
    index on every axis. The result is one larger than ``mask`` along each axis.
    """
    padded = np.pad(mask, 1).view(np.uint8)
    corners = tuple(n + 1 for n in mask.shape)
    codes = np.zeros(corners, np.uint8)
    for offset in np.ndindex(*(2,) * mask.ndim):
        window = tuple(slice(o, o + n) for o, n in zip(offset, corners, strict=True))
        codes <<= 1
        codes |= padded[window]
    return codes


def _area_of_code(spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Area (3D) or length (2D) of the surface element of each neighbour code; 0 for none."""
    from surface_distance import lookup_tables  # type: ignore[import-untyped]  # ships no types

    table: NDArray[np.float64]
    if len(spacing) == 2:
        table = lookup_tables.create_table_neighbour_code_to_contour_length(spacing)
    else:
        table = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    return table


def _distances(
    origins: NDArray[np.bool_], targets: NDArray[np.bool_], spacing: tuple[float, ...]
) -> NDArray[np.float64]:
    """Distance in mm from each element of ``origins`` to the nearest one of ``targets``."""
    from scipy.ndimage import distance_transform_edt

    points = np.nonzero(origins)
    if not targets.any():
        return np.full(points[0].size, np.inf)
    if points[0].size == 0:
        return np.zeros(0)
    # The distances of all the other voxels would cost more than the transform itself.
    nearest: NDArray[Any] = distance_transform_edt(
        ~targets, sampling=spacing, return_distances=False, return_indices=True
    )
    offsets = np.stack([nearest[axis][points] - index for axis, index in enumerate(points)])
    scaled = offsets * np.array(spacing)[:, None]
    return np.asarray(np.sqrt(np.add.reduce(scaled * scaled, axis=0)), np.float64)


def _sorted(
    distances: NDArray[np.float64], areas: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    order = np.lexsort((areas, distances))
    return distances[order], areas[order]


def _percentile_95(distances: NDArray[np.float64], areas: NDArray[np.float64]) -> float:
    """Distance that 95 % of the area does not exceed; infinite without a surface."""
    if distances.size == 0:
        return math.inf
    share = np.cumsum(areas) / np.sum(areas)
    index = int(np.searchsorted(share, 0.95))
    return float(distances[min(index, distances.size - 1)])
