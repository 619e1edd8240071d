"""Segments the objects of one npz case from one box each."""

from dataclasses import replace

import torch

from medsam2_ft.errors import UserError
from medsam2_ft.sam2_adapter import Sam2
from medsam2_ft.segmenter import Segmenter, Strategy
from medsam2_ft.types import Case
from medsam2_ft.volume_prompts import prompts_from_labels, stored_prompts


def predict_case(
    model: Sam2,
    case: Case,
    *,
    strategy: Strategy = "box",
    margin_px: float = 5.0,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Replaces the label maps of a case by what the model makes of its boxes.

    The boxes are those stored with the case; without any, they are simulated from its labels, one
    on the middle slice of each object.

    Args:
        model: On any device; its mode is left as it was.
        case: Image with boxes or labels.
        strategy: How masks are propagated from slice to slice.
        margin_px: Margin around simulated and propagated boxes, in pixels of a 1024 input.
        dtype: Autocast type; float32 switches autocast off.

    Returns:
        The case with one label map and neither boxes nor regions; where objects overlap the
        larger logit wins.

    Raises:
        UserError: The case has neither boxes nor labels, or boxes of a shape that says too little.
    """
    prompts = stored_prompts(case) or prompts_from_labels(case, margin_px=margin_px)
    if not prompts:
        raise UserError(
            f"{case.name}: nothing to segment; add boxes (key `boxes`) or labels (key `gts`)"
        )
    segmenter = Segmenter(model, dtype=dtype)
    labels = segmenter.segment(case, prompts, strategy=strategy, margin_px=margin_px)
    return replace(case, label_maps=labels.maps, boxes=None, box_labels=(), regions={})
