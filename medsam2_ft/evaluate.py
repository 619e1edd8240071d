"""Scores of a model on labelled cases: single slices with tight boxes, and whole volumes.

Volumes follow one protocol: an object is prompted once, by the box of its middle slice, and
propagated from there within the slices that hold it.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Integer, UInt8
from numpy.typing import NDArray

from medsam2_ft.metrics import (
    dice,
    hausdorff_95,
    normalized_surface_dice,
    pool_frames,
    surface_distances,
)
from medsam2_ft.objects import Target, find_targets
from medsam2_ft.propagate import ObjectPrompt, Strategy, propagate
from medsam2_ft.sam2_adapter import Sam2
from medsam2_ft.types import Case
from medsam2_ft.volume_prompts import Simulation, ZRange, tight_box


@dataclass(frozen=True)
class SliceScore:
    """One label in one slice.

    Attributes:
        case: Name.
        label: Id.
        frame: Slice index.
        dsc: DSC of the mask that the tight box gives, in [0, 1].
        dsc_box: DSC of the filled box itself, what a model must beat.
    """

    case: str
    label: int
    frame: int
    dsc: float
    dsc_box: float


@dataclass(frozen=True)
class ObjectScore:
    """One label of one volume, propagated from one box.

    Attributes:
        case: Name.
        modality: As the case states it, or None.
        label: Id; for a region ``-1``, ``-2`` ... in the case's order.
        label_name: Its name, or the id as text.
        strategy: How the masks were propagated.
        z_range: ``object`` if only the object's own slices were segmented, else ``full``.
        prompt_frame: The slice whose box was the prompt.
        dsc: In [0, 1].
        nsd: Within the tolerance, in [0, 1]; of a video pooled over its frames, in 2D.
        hd95_mm: Infinite if nothing was segmented.
    """

    case: str
    modality: str | None
    label: int
    label_name: str
    strategy: Strategy
    z_range: ZRange
    prompt_frame: int
    dsc: float
    nsd: float
    hd95_mm: float


def predict_slice(
    model: Sam2,
    image: UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"],
    boxes_xyxy: Float32[np.ndarray, "n 4"],
    *,
    dtype: torch.dtype = torch.float32,
) -> Bool[np.ndarray, "n h w"]:
    """Segments one slice from boxes, as Meta's image predictor does with its default settings.

    Args:
        model: On any device.
        image: Slice, 0-255.
        boxes_xyxy: Inclusive boxes in pixels of the slice; all share one encoding.
        dtype: Autocast type; float32 switches autocast off.

    Returns:
        One mask per box on the slice's own grid; empty without boxes.
    """
    if len(boxes_xyxy) == 0:
        return np.zeros((0, *image.shape[:2]), bool)
    # Propagation through a single frame is the image predictor, for many objects at once.
    prompts = [ObjectPrompt.from_box(i, 0, box, (0, 0)) for i, box in enumerate(boxes_xyxy)]
    masks = next(propagate(model, image[None], prompts, strategy="box", dtype=dtype))
    return (masks.logits > 0).cpu().numpy()


def score_slices(
    model: Sam2,
    case: Case,
    *,
    min_area_px: int = 100,
    labels: Collection[int] | None = None,
    slices: Collection[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[SliceScore]:
    """Scores every (slice, label) pair, each prompted by its own tight box, on the native grid.

    A label with several pieces in a slice gets one box around all of them.

    Args:
        model: On any device; its mode is left as it was.
        case: Labelled case; one without labels has no scores.
        min_area_px: Pairs with fewer pixels are left out.
        labels: Only these label ids.
        slices: Only these slice indices.
        dtype: Autocast type; float32 switches autocast off.

    Returns:
        Scores by slice, map and label id.
    """
    scores: list[SliceScore] = []
    for frame in range(len(case.image)) if slices is None else sorted(slices):
        found = [
            (label, mask)
            for label_map in case.label_maps
            for label, mask in _slice_masks(label_map[frame], labels)
            if np.count_nonzero(mask) >= min_area_px
        ]
        if not found:
            continue
        boxes = np.stack([tight_box(mask) for _, mask in found])
        predictions = predict_slice(model, case.image[frame], boxes, dtype=dtype)
        scores += [
            SliceScore(case.name, label, frame, dice(pred, mask), dice(_filled(box, mask), mask))
            for (label, mask), box, pred in zip(found, boxes, predictions, strict=True)
        ]
    return scores


def score_volume(
    model: Sam2,
    case: Case,
    *,
    strategies: Sequence[Strategy] = ("box",),
    tolerance_mm: float = 2.0,
    z_range: ZRange = "object",
    margin_px: float = 5.0,
    regions: bool = False,
    dtype: torch.dtype = torch.float32,
) -> list[ObjectScore]:
    """Propagates every label of a case from the box of its middle slice and scores it in 3D.

    The middle slice is the labelled one nearest to the middle of the object's first and last
    slice; a label with several pieces there gets one box around all of them.

    Args:
        model: On any device; its mode is left as it was.
        case: Labelled case; one without labels has no scores. ``z == 1`` is scored in 2D.
        strategies: How to propagate; each is scored by itself.
        tolerance_mm: Of the NSD.
        z_range: Segment and score the slices from the object's first to its last (``object``), or
            all slices (``full``), where masks beyond the object count as errors.
        margin_px: Margin around prompt boxes in pixels of a 1024 input.
        regions: Whether regions are objects beside the labels that make them up.
        dtype: Autocast type; float32 switches autocast off.

    Returns:
        Scores by strategy, map and label id; regions last.
    """
    how = Simulation(margin_px=margin_px, z_range=z_range)
    targets = find_targets(case, how, regions=regions)
    scores: list[ObjectScore] = []
    for strategy in strategies:
        masks = _propagate_all(model, case, targets, strategy, margin_px, dtype)
        for target in targets:
            pred = _unpack(masks[target.label], case.image.shape[2])
            dsc, nsd, hd95_mm = _score(pred, target.truth(), case, tolerance_mm)
            scores.append(
                ObjectScore(
                    case=case.name,
                    modality=case.modality,
                    label=target.label,
                    label_name=target.name,
                    strategy=strategy,
                    z_range=z_range,
                    prompt_frame=target.prompt.frame,
                    dsc=dsc,
                    nsd=nsd,
                    hd95_mm=hd95_mm,
                )
            )
    return scores


def _propagate_all(
    model: Sam2,
    case: Case,
    targets: Sequence[Target],
    strategy: Strategy,
    margin_px: float,
    dtype: torch.dtype,
) -> dict[int, NDArray[np.uint8]]:
    """Masks by label (unique over maps) in its range, one bit per pixel for there may be many."""
    height, width = case.image.shape[1:3]
    prompts = {target.label: target.prompt for target in targets}
    packed = {
        label: np.zeros((last - first + 1, height, (width + 7) // 8), np.uint8)
        for label, (first, last) in ((label, p.z_range) for label, p in prompts.items())
    }
    if not prompts:
        return packed
    boxes = list(prompts.values())
    for masks in propagate(
        model, case.image, boxes, strategy=strategy, margin_px=margin_px, dtype=dtype
    ):
        bits = np.packbits((masks.logits > 0).cpu().numpy(), axis=-1)
        for label, rows in zip(masks.object_ids, bits, strict=True):
            packed[label][masks.frame - prompts[label].z_range[0]] = rows
    return packed


def _unpack(packed: UInt8[np.ndarray, "z h bytes"], width: int) -> Bool[np.ndarray, "z h w"]:
    return np.unpackbits(packed, axis=-1, count=width).view(np.bool_)


def _score(
    pred: Bool[np.ndarray, "z h w"],
    truth: Bool[np.ndarray, "z h w"],
    case: Case,
    tolerance_mm: float,
) -> tuple[float, float, float]:
    """DSC, NSD and HD95 (mm) on a range of slices of the case."""
    dsc = dice(pred, truth)
    if case.is_video:  # time has no millimetres
        distances = pool_frames(pred, truth, case.geometry.spacing_mm)
        return dsc, normalized_surface_dice(distances, tolerance_mm), hausdorff_95(distances)
    if len(case.image) > 1:
        # An object of one slice in a volume is a slab, not an image: keep the 3D definition.
        pred, truth = (np.pad(mask, ((0, 1), (0, 0), (0, 0))) for mask in (pred, truth))
    distances = surface_distances(pred, truth, case.geometry.spacing_mm)
    return dsc, normalized_surface_dice(distances, tolerance_mm), hausdorff_95(distances)


def _slice_masks(
    label_slice: Integer[np.ndarray, "h w"], labels: Collection[int] | None
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    for label in np.unique(label_slice):
        if label != 0 and (labels is None or int(label) in labels):
            yield int(label), label_slice == label


def _filled(
    box_xyxy: Float32[np.ndarray, " 4"], mask: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """The box as a mask; its last row and column belong to it."""
    x0, y0, x1, y1 = (int(side) for side in box_xyxy)
    filled = np.zeros_like(mask)
    filled[y0 : y1 + 1, x0 : x1 + 1] = True
    return filled
