"""DSC, NSD and HD95 of masks and of all labels of a volume."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Integer

from medsam2_ft.metrics.boxes import label_boxes, occupied_box, union_box
from medsam2_ft.metrics.distances import (
    check_grids,
    check_spacing,
    hausdorff_95,
    normalized_surface_dice,
    surface_distances,
)
from medsam2_ft.metrics.surfaces import Spacing

Empty = Literal["nan", "perfect"]


@dataclass(frozen=True)
class MaskScores:
    """How well one mask agrees with another.

    Attributes:
        dsc: In [0, 1].
        nsd: For each tolerance, in [0, 1].
        hd95_mm: Infinite if one mask is empty.
    """

    dsc: float
    nsd: tuple[float, ...]
    hd95_mm: float


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
    check_grids(pred, truth)
    voxels = np.count_nonzero(pred) + np.count_nonzero(truth)
    if voxels == 0:
        return empty_value
    return 2 * int(np.count_nonzero(pred & truth)) / int(voxels)


def score_masks(
    pred: Bool[np.ndarray, "z y x"],
    truth: Bool[np.ndarray, "z y x"],
    spacing_mm: Spacing,
    tolerances_mm: Sequence[float] = (2.0,),
    *,
    empty: Empty = "nan",
    planar: bool | None = None,
) -> MaskScores:
    """Computes DSC, NSD and HD95 of a mask.

    Args:
        pred: Predicted mask.
        truth: True mask on the same grid.
        spacing_mm: Voxel size in array order (z, y, x).
        tolerances_mm: Of the NSD.
        empty: What two empty masks give: NaN, or the best values (1, 1 and 0 mm), which is how the
            challenges count them.
        planar: As in ``surface_distances``.

    Raises:
        ValueError: The shapes differ, or the spacing is not three positive numbers.
    """
    check_grids(pred, truth)
    planar = pred.shape[0] == 1 if planar is None else planar
    box = union_box(occupied_box(pred), occupied_box(truth))
    pred, truth = pred[box], truth[box]
    share, length = (1.0, 0.0) if empty == "perfect" else (math.nan, math.nan)
    distances = surface_distances(pred, truth, spacing_mm, planar=planar)
    return MaskScores(
        dice(pred, truth, share),
        tuple(normalized_surface_dice(distances, mm, share) for mm in tolerances_mm),
        hausdorff_95(distances, length),
    )


def score_labels(
    pred: Integer[np.ndarray, "z y x"],
    truth: Integer[np.ndarray, "z y x"],
    spacing_mm: Spacing,
    tolerances_mm: Sequence[float] = (2.0,),
    *,
    labels: Collection[int] | None = None,
    empty: Empty = "nan",
    planar: bool | None = None,
) -> dict[int, MaskScores]:
    """Computes DSC, NSD and HD95 of each label, each in its own box.

    Args:
        pred: Predicted label map, 0 = background.
        truth: True label map on the same grid.
        spacing_mm: Voxel size in array order (z, y, x).
        tolerances_mm: Of the NSD.
        labels: These ids from 1 on, whether they occur or not; by default those that occur in
            either map.
        empty: What a label that occurs in neither map gives, as in ``score_masks``.
        planar: As in ``surface_distances``.

    Returns:
        Scores by label id, ascending.

    Raises:
        ValueError: The shapes differ, the spacing is not three positive numbers, an id in a map is
            negative or above 65535, or one in ``labels`` is not positive.
    """
    check_grids(pred, truth)
    spacing = check_spacing(spacing_mm)
    planar = pred.shape[0] == 1 if planar is None else planar
    boxes_pred, boxes_truth = label_boxes(pred), label_boxes(truth)
    ids = boxes_pred.keys() | boxes_truth.keys() if labels is None else set(labels)
    if any(label < 1 for label in ids):
        raise ValueError(f"labels must be positive, got {sorted(ids)}.")
    scores: dict[int, MaskScores] = {}
    for label in sorted(ids):
        box = union_box(boxes_pred.get(label), boxes_truth.get(label))
        masks = pred[box] == label, truth[box] == label
        scores[label] = score_masks(*masks, spacing, tolerances_mm, empty=empty, planar=planar)
    return scores
