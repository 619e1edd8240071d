"""Distances between the surfaces of two masks, from which NSD and HD95 follow."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from medsam2_ft.metrics.boxes import occupied_box, union_box
from medsam2_ft.metrics.nearest import far_distances, rings_around, search_rings
from medsam2_ft.metrics.surfaces import Spacing, Surface, element_sizes, find_surface


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between two surfaces, from which NSD and HD95 follow.

    Each pair of arrays has one entry per surface element, sorted by distance, then by area. Areas
    are lengths in mm for 2D images. A surface that does not exist has no elements; the distances
    to it are infinite.

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


def surface_distances(
    pred: Bool[np.ndarray, "z y x"],
    truth: Bool[np.ndarray, "z y x"],
    spacing_mm: Spacing,
    *,
    planar: bool | None = None,
) -> SurfaceDistances:
    """Computes the distances from each surface to the other one.

    Args:
        pred: Predicted mask.
        truth: True mask on the same grid.
        spacing_mm: Voxel size in array order (z, y, x).
        planar: Whether every slice is an image by itself: contours are compared slice by slice,
            weighted by their length, and those of all slices are put together; the first spacing
            plays no part. By default so for an array with ``z == 1``.

    Raises:
        ValueError: The shapes differ, or the spacing is not three positive numbers.
    """
    check_grids(pred, truth)
    spacing = check_spacing(spacing_mm)
    box = union_box(occupied_box(pred), occupied_box(truth))
    planar = pred.shape[0] == 1 if planar is None else planar
    rings = rings_around(spacing, planar)
    surface_pred, surface_truth = (
        find_surface(mask[box], rings.margin, planar) for mask in (pred, truth)
    )
    return SurfaceDistances(
        *_sorted_distances(surface_truth, surface_pred, spacing, planar),
        *_sorted_distances(surface_pred, surface_truth, spacing, planar),
    )


def pool_frames(
    pred: Bool[np.ndarray, "t y x"],
    truth: Bool[np.ndarray, "t y x"],
    spacing_mm: Spacing,
) -> SurfaceDistances:
    """Computes the distances between contours frame by frame and puts those of all together.

    Args:
        pred: Predicted mask of a video.
        truth: True mask on the same grid.
        spacing_mm: Pixel size in array order; the first entry plays no part.

    Raises:
        ValueError: The shapes differ, or the spacing is not three positive numbers.
    """
    return surface_distances(pred, truth, spacing_mm, planar=True)


def normalized_surface_dice(
    distances: SurfaceDistances, tolerance_mm: float, empty_value: float = math.nan
) -> float:
    """Share of both surfaces, by area, that lies within ``tolerance_mm`` of the other, in [0, 1].

    Args:
        distances: From ``surface_distances``; each further tolerance costs next to nothing.
        tolerance_mm: Largest distance that still counts as agreement, inclusive.
        empty_value: What two empty masks give.
    """
    d = distances
    total = float(d.truth_areas_mm2.sum() + d.pred_areas_mm2.sum())
    if total == 0:
        return empty_value
    near = _area_within(d.truth_to_pred_mm, d.truth_areas_mm2, tolerance_mm)
    near += _area_within(d.pred_to_truth_mm, d.pred_areas_mm2, tolerance_mm)
    return near / total


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


def check_grids(pred: NDArray[np.generic], truth: NDArray[np.generic]) -> None:
    """Raises ValueError where the shapes differ."""
    if pred.shape != truth.shape:
        raise ValueError(f"masks must share a grid, got {pred.shape} and {truth.shape}.")


def check_spacing(spacing_mm: Spacing) -> Spacing:
    """Returns the spacing as plain numbers; raises ValueError unless it is three positive ones."""
    if len(spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise ValueError(f"spacing_mm must be three positive numbers (z, y, x), got {spacing_mm}.")
    z, y, x = (float(s) for s in spacing_mm)
    return z, y, x


def _sorted_distances(
    origin: Surface, target: Surface, spacing_mm: Spacing, planar: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances and areas of the elements of ``origin``, sorted by both."""
    sizes, rings = element_sizes(spacing_mm, planar), rings_around(spacing_mm, planar)
    found = search_rings(origin, target, rings)
    by_size = np.argsort(sizes)
    # Elements of one ring and code are equal: counting them saves sorting them.
    counts = found.counts[:, by_size]
    ring, code = np.nonzero(counts)
    repeats = counts[ring, code]
    far = far_distances(found.rest, target, spacing_mm, planar)
    far_sizes = sizes[found.rest_codes]
    order = np.lexsort((far_sizes, far))
    distances = np.concatenate([np.repeat(rings.distances_mm[ring], repeats), far[order]])
    return distances, np.concatenate([np.repeat(sizes[by_size][code], repeats), far_sizes[order]])


def _area_within(
    distances: NDArray[np.float64], areas: NDArray[np.float64], tolerance_mm: float
) -> float:
    return float(areas[: np.searchsorted(distances, tolerance_mm, side="right")].sum())


def _percentile_95(distances: NDArray[np.float64], areas: NDArray[np.float64]) -> float:
    """Distance that 95 % of the area does not exceed; infinite without a surface."""
    if distances.size == 0:
        return math.inf
    share = np.cumsum(areas) / np.sum(areas)
    index = int(np.searchsorted(share, 0.95))
    return float(distances[min(index, distances.size - 1)])
