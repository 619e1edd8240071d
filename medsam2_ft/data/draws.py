"""How often an epoch draws each slice: weights of data sets and modalities.

The weight of a slice is that of its data set times that of its modality, each 1 unless given. A
draw of the epoch falls on a slice with a chance in proportion to its weight, so a data set is drawn
in proportion to its weight times its number of labelled slices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from medsam2_ft.data.index import SliceIndex
from medsam2_ft.data.options import check_weights
from medsam2_ft.errors import UserError


@dataclass(frozen=True)
class Draws:
    """What an epoch is drawn from.

    Attributes:
        foreground: Slices with labels; an epoch draws as many as there are.
        background: Label-free slices.
        n_background: How many of the latter an epoch draws.
        negative_probability: Chance that a slice with labels also gets a negative prompt.
        weights: Weight of every slice of the index; None where all are equal.
    """

    foreground: Int64[np.ndarray, " f"]
    background: Int64[np.ndarray, " k"]
    n_background: int
    negative_probability: float
    weights: Float64[np.ndarray, " slices"] | None


def plan_negatives(
    objects: int, foreground: int, background: int, share: float
) -> tuple[int, float]:
    """Shares out the negative prompts of an epoch, at most one to a slice.

    Half of them go to label-free slices, if there are enough; the other half to slices with labels,
    where the model must look into the box to tell that nothing is there.

    Args:
        objects: Positive prompts of an epoch.
        foreground: Slices with labels.
        background: Label-free slices.
        share: Wanted share of negatives among all prompts, in [0, 1).

    Returns:
        How many label-free slices an epoch draws (at most ``share`` of the labelled ones), and the
        chance that a labelled slice gets a negative (capped at 1).
    """
    wanted = objects * share / (1.0 - share)
    drawn = min(background, round(wanted / 2), round(share * foreground))
    return drawn, min((wanted - drawn) / foreground, 1.0)


def plan_draws(
    index: SliceIndex,
    groups: Sequence[tuple[str, str]],
    *,
    dataset_weights: Mapping[str, float],
    modality_weights: Mapping[str, float],
    max_objects: int,
    negative_share: float,
) -> Draws:
    """Plans the epochs of training.

    Args:
        index: Slices of the training split.
        groups: Data set and modality of each of its cases.
        dataset_weights: Weight by data set, 1 where it is not named.
        modality_weights: Weight by modality, 1 where it is not named.
        max_objects: Most labels of a slice that are prompted at once.
        negative_share: Wanted share of negatives among all prompts, in [0, 1).

    Raises:
        UserError: A modality that no case has, or nothing is left to train on.
    """
    present = sorted({modality for _, modality in groups})
    check_weights("data.modality_weights", modality_weights, present)
    products = [dataset_weights.get(d, 1.0) * modality_weights.get(m, 1.0) for d, m in groups]
    if not any(products):
        raise UserError(
            "data.dataset_weights and data.modality_weights leave no case to train on; give one "
            "of them a weight above 0."
        )
    labels, weights = index.labels_per_slice(), np.array(products)[index.slices[:, 0]]
    foreground = np.flatnonzero((labels > 0) & (weights > 0))
    background = np.flatnonzero((labels == 0) & (weights > 0))
    prompts, own = np.minimum(labels, max_objects)[foreground], weights[foreground]
    n_background, probability = plan_negatives(
        objects=round(float(len(prompts) * (own * prompts).sum() / own.sum())),
        foreground=len(foreground),
        background=len(background),
        share=negative_share,
    )
    uneven = len(set(products)) > 1
    return Draws(foreground, background, n_background, probability, weights if uneven else None)
