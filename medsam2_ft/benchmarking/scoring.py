"""Segments one case and scores every object of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import NDArray

from medsam2_ft.benchmarking.meter import Cost, Meter
from medsam2_ft.benchmarking.peeks import pack_mask
from medsam2_ft.benchmarking.records import ObjectRecord
from medsam2_ft.benchmarking.settings import UNKNOWN_MODALITY, Kind, Settings
from medsam2_ft.inspection.facts import kind_of
from medsam2_ft.metrics import score_masks
from medsam2_ft.objects import Target, find_targets
from medsam2_ft.propagate import Strategy
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.types import Case
from medsam2_ft.volume_prompts import Simulation

_PIXELS: Final = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Scores:
    """What one model makes of one case.

    Attributes:
        objects: One per object; empty for a case without any.
        frames: Number of slices that were segmented.
        cost: Time and memory.
    """

    objects: Sequence[ObjectRecord]
    frames: int
    cost: Cost


def score_case(segmenter: Segmenter, case: Case, settings: Settings, strategy: Strategy) -> Scores:
    """Prompts each object with one box, segments all of them together and scores each.

    Scores are computed on the case's own grid in the slices that were segmented. Volumes are
    compared in 3D and in mm, an object of a single slice as a slab; images, and videos frame by
    frame with the contours of all frames together, in pixels.

    Args:
        segmenter: The model.
        case: A case; without labels it has no objects.
        settings: Prompts and scoring.
        strategy: How masks are propagated. A single slice has no next one: any strategy is the
            image predictor there, as in ``Segmenter.segment``.

    Raises:
        UserError: The model cannot do what is asked.
    """
    if len(case.image) == 1:
        strategy = "box"
    how = Simulation(
        margin_px=settings.margin_px,
        z_range=settings.z_range,
        protocol=settings.protocol,
        strategy=strategy,
        box_noise_px=settings.box_noise_px,
        seed=settings.seed,
    )
    targets = find_targets(case, how, regions=settings.regions)
    if not targets:
        return Scores((), 0, Cost())
    meter = Meter(segmenter.device)
    with meter:
        masks = _segment(segmenter, case, targets, settings, strategy)
    frames = {z for t in targets for z in range(t.prompt.z_range[0], t.prompt.z_range[1] + 1)}
    width = case.image.shape[2]
    kind, modality = kind_of(case), case.modality or UNKNOWN_MODALITY
    tolerance = settings.tolerance(kind, modality)
    objects = [
        _score(_unpack(masks[target.label], width), target, case, kind, tolerance)
        for target in targets
    ]
    return Scores(objects, len(frames), meter.cost)


def _segment(
    segmenter: Segmenter,
    case: Case,
    targets: Sequence[Target],
    settings: Settings,
    strategy: Strategy,
) -> Mapping[int, NDArray[np.uint8]]:
    """Masks by label in their ranges, one bit per pixel, for there may be many."""
    height, width = case.image.shape[1:3]
    prompts = [target.prompt for target in targets]
    first = {prompt.object_id: prompt.z_range[0] for prompt in prompts}
    packed = {
        p.object_id: np.zeros((p.z_range[1] - p.z_range[0] + 1, height, (width + 7) // 8), np.uint8)
        for p in prompts
    }
    found = segmenter.masks(
        case,
        prompts,
        strategy=strategy,
        margin_px=settings.margin_px,
        protocol=settings.protocol,
    )
    for masks in found:
        bits = np.packbits((masks.logits > 0).cpu().numpy(), axis=-1)
        for label, rows in zip(masks.object_ids, bits, strict=True):
            packed[label][masks.frame - first[label]] = rows
    return packed


def _unpack(packed: NDArray[np.uint8], width: int) -> Bool[np.ndarray, "z h w"]:
    return np.unpackbits(packed, axis=-1, count=width).view(np.bool_)


def _score(
    pred: Bool[np.ndarray, "z h w"], target: Target, case: Case, kind: Kind, tolerance: float
) -> ObjectRecord:
    truth = target.truth()
    in_3d = kind == "3D"
    spacing = case.geometry.spacing_mm if in_3d else _PIXELS
    scores = score_masks(pred, truth, spacing, (tolerance,), planar=not in_3d)
    part, (first, last) = target.prompt.slices[0], target.prompt.z_range
    assert part.box_xyxy is not None, "objects are prompted by boxes"
    slice_dsc = dice_by_slice(pred, truth)
    return ObjectRecord(
        label=target.label,
        label_name=target.name,
        prompt_frame=part.frame,
        box_xyxy=tuple(float(side) for side in part.box_xyxy),
        first=first,
        last=last,
        voxels=int(np.count_nonzero(truth)),
        pred_voxels=int(np.count_nonzero(pred)),
        dsc=scores.dsc,
        nsd=scores.nsd[0],
        hd95=scores.hd95_mm,
        tolerance=tolerance,
        slice_dsc=tuple(float(value) for value in slice_dsc),
        peeks={
            str(frame): pack_mask(pred[frame - first])
            for frame in dict.fromkeys((part.frame, first + int(np.nanargmin(slice_dsc))))
        },
    )


def dice_by_slice(
    pred: Bool[np.ndarray, "z h w"], truth: Bool[np.ndarray, "z h w"]
) -> Float64[np.ndarray, " z"]:
    """Returns the DSC of each slice; NaN where both masks are empty."""
    voxels = pred.sum(axis=(1, 2)) + truth.sum(axis=(1, 2))
    shared = (pred & truth).sum(axis=(1, 2))
    scores = np.full(len(voxels), np.nan)
    np.divide(2.0 * shared, voxels, out=scores, where=voxels > 0)
    return scores
