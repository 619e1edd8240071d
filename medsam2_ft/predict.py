"""Segments the objects of one npz case from one box each."""

import numpy as np
import torch

from medsam2_ft.errors import UserError
from medsam2_ft.objects import labelled_prompts
from medsam2_ft.prompts import middle_slice
from medsam2_ft.propagate import ObjectPrompt, Strategy, propagate
from medsam2_ft.sam2_adapter import Sam2
from medsam2_ft.types import Case


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
        The case with one uint16 label map; where objects overlap the larger logit wins.

    Raises:
        UserError: The case has neither boxes nor labels, or boxes of a shape that says too little.
    """
    if case.boxes is not None:
        prompts = stored_prompts(case)
    else:
        prompts = [p for labels in case.label_maps for p in labelled_prompts(labels, margin_px)]
    if not prompts:
        raise UserError(
            f"{case.name}: nothing to segment; add boxes (key `boxes`) or labels (key `gts`)"
        )
    labels = np.zeros(case.image.shape[:3], np.uint16)
    best_logits = np.zeros(case.image.shape[:3], np.float16)
    for masks in propagate(
        model, case.image, prompts, strategy=strategy, margin_px=margin_px, dtype=dtype
    ):
        logits, best = masks.logits.cpu().numpy(), best_logits[masks.frame]
        for object_id, own in zip(masks.object_ids, logits, strict=True):
            wins = own > best
            labels[masks.frame][wins] = object_id
            best[wins] = own[wins]
    return Case(
        name=case.name,
        image=case.image,
        label_maps=(labels,),
        geometry=case.geometry,
        modality=case.modality,
        label_names=case.label_names,
        intensity=case.intensity,
    )


def stored_prompts(case: Case) -> list[ObjectPrompt]:
    """Turns the boxes of a case into prompts, in the order of its box labels.

    A 3D box is projected onto its middle slice and bounds the slices that are segmented; a 2D box
    belongs to the only slice of an image.

    Raises:
        UserError: 2D boxes in a volume: nobody knows on which slice they lie.
    """
    assert case.boxes is not None
    if case.boxes.shape[1] == 4 and len(case.image) > 1:
        raise UserError(
            f"{case.name}: 2D boxes in a volume of {len(case.image)} slices; give 3D boxes"
            " x0,y0,z0,x1,y1,z1"
        )
    prompts = []
    for label, row in zip(case.box_labels, case.boxes, strict=True):
        flat = row if len(row) == 4 else row[[0, 1, 3, 4]]
        first, last = (0, 0) if len(row) == 4 else (int(row[2]), int(row[5]))
        frame = middle_slice(range(first, last + 1))
        prompts.append(ObjectPrompt.from_box(label, frame, flat.astype(np.float32), (first, last)))
    return prompts
