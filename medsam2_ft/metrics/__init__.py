"""Overlap and surface metrics of masks, in millimetres.

Definitions are those of DeepMind's ``surface-distance``: surfaces are made of surface elements
(marching cubes on 2x2x2 neighbourhoods) that are weighted by their area. Its lookup tables are
used as they are; its computation is not, because it transforms whole volumes, sorts in Python and
calls numpy and scipy by names that newer releases drop. Distances are equal up to the last bit:
where several elements are equally near, rounding decides there, and the smallest result here.

Empty masks, everywhere: both empty gives NaN unless said otherwise (the challenges count it as 1);
one empty gives a DSC and NSD of 0 and an infinite HD95, because a missed object must not raise a
mean.
"""

from medsam2_ft.metrics.distances import (
    SurfaceDistances,
    hausdorff_95,
    normalized_surface_dice,
    pool_frames,
    surface_distances,
)
from medsam2_ft.metrics.scores import MaskScores, dice, score_labels, score_masks

__all__ = [
    "MaskScores",
    "SurfaceDistances",
    "dice",
    "hausdorff_95",
    "normalized_surface_dice",
    "pool_frames",
    "score_labels",
    "score_masks",
    "surface_distances",
]
