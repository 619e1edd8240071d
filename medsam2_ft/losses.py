"""Losses of a prompted mask decoder: pure functions, one value per prompt.

Nothing is averaged over prompts here. The training step sums over its prompts and divides by the
number of prompts on all ranks, which only works on unreduced values.
"""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from medsam2_ft.errors import UserError


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; a term with weight 0 is left out of the sum altogether.

    The defaults reach the whole mask decoder. Meta's default settings replace an unstable single
    mask (token 0) by one of tokens 1-3, chosen by the IoU head, and blank the masks of a video
    where the object score is not positive; a model trained on token 0 alone loses its accuracy
    there. All terms are of order one (Dice, L1 of an IoU) or fall below it fast (the two
    cross-entropies), and SAM2's own recipe weighs Dice, IoU and object score alike too. The recipe
    of arXiv 2408.03322 is ``dice=1, bce=1`` and zero for the others.

    Attributes:
        dice: Dice loss of the single-mask token.
        bce: Binary cross-entropy of the single-mask token.
        multimask: Dice + cross-entropy (1:1, whatever the two weights above), mean over the three
            multimask tokens.
        iou: L1 distance of the IoU head to the true IoU, mean over the four tokens.
        object_score: Binary cross-entropy of the object score; learns from negatives too.

    Raises:
        UserError: A weight is negative or not finite, or all are zero.
    """

    dice: float = 1.0
    bce: float = 1.0
    multimask: float = 1.0
    iou: float = 1.0
    object_score: float = 1.0

    def __post_init__(self) -> None:
        """Checks the values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"loss weight {name}={value}: give a finite number of at least 0")
        if not any(values.values()):
            raise UserError("all loss weights are 0: give at least one a positive value")


@dataclass(frozen=True)
class PromptLosses:
    """Unweighted loss terms of ``n`` prompts, float32; zero where a term does not apply.

    Attributes:
        dice: Single-mask token; 0 for negative prompts.
        bce: Single-mask token; 0 for negative prompts.
        multimask: Dice + cross-entropy, mean over the multimask tokens; 0 for negative prompts.
        iou: IoU head; 0 for negative prompts, as in SAM2's own training.
        object_score: Object score head; every prompt.
    """

    dice: Float[Tensor, " n"]
    bce: Float[Tensor, " n"]
    multimask: Float[Tensor, " n"]
    iou: Float[Tensor, " n"]
    object_score: Float[Tensor, " n"]

    def total(self, weights: LossWeights) -> Float[Tensor, " n"]:
        """Returns the weighted sum per prompt; terms of weight 0 build no graph."""
        terms = [
            getattr(weights, field.name) * getattr(self, field.name)
            for field in fields(self)
            if getattr(weights, field.name) > 0
        ]
        return torch.stack(terms).sum(dim=0)


def dice_loss(
    mask_logits: Float[Tensor, "n m h w"], masks: Bool[Tensor, "n h w"]
) -> Float[Tensor, "n m"]:
    """MONAI's ``DiceLoss(sigmoid=True, squared_pred=True)`` of each mask, not reduced.

    ``1 - (2 sum(p g) + 1e-5) / (sum(p^2) + sum(g^2) + 1e-5)``, computed in float32 also under
    autocast. No prompts give an empty tensor.
    """
    from monai.losses.dice import DiceLoss  # costs seconds at its first import

    loss = DiceLoss(sigmoid=True, squared_pred=True, reduction="none")
    target = masks.float().unsqueeze(1).expand_as(mask_logits)
    with torch.autocast(mask_logits.device.type, enabled=False):
        per_mask: Tensor = loss(mask_logits.float(), target)
    return per_mask[:, :, 0, 0]


def bce_loss(
    mask_logits: Float[Tensor, "n m h w"], masks: Bool[Tensor, "n h w"]
) -> Float[Tensor, "n m"]:
    """Binary cross-entropy with logits of each mask, mean over its pixels, in float32.

    No prompts give an empty tensor.
    """
    target = masks.float().unsqueeze(1).expand_as(mask_logits)
    with torch.autocast(mask_logits.device.type, enabled=False):
        per_pixel = binary_cross_entropy_with_logits(mask_logits.float(), target, reduction="none")
    return per_pixel.mean(dim=(2, 3))


@torch.no_grad()
def mask_iou(
    mask_logits: Float[Tensor, "n m h w"], masks: Bool[Tensor, "n h w"]
) -> Float[Tensor, "n m"]:
    """IoU of each mask, thresholded at logit 0, with the truth; 1 where both are empty."""
    predicted = mask_logits > 0
    truth = masks.unsqueeze(1)
    intersection = (predicted & truth).sum(dim=(2, 3))
    union = (predicted | truth).sum(dim=(2, 3))
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


@torch.no_grad()
def mask_dsc(
    mask_logits: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]
) -> Float[Tensor, " n"]:
    """Dice similarity coefficient of each mask thresholded at logit 0; NaN for empty truths.

    For curves during training: at the resolution of the logits, not of the image.
    """
    predicted = mask_logits > 0
    intersection = (predicted & masks).sum(dim=(1, 2))
    sizes = predicted.sum(dim=(1, 2)) + masks.sum(dim=(1, 2))
    dsc = 2 * intersection / sizes.clamp(min=1)
    return torch.where(masks.any(dim=2).any(dim=1), dsc, torch.nan)


def prompt_losses(
    mask_logits: Float[Tensor, "n 4 h w"],
    iou_pred: Float[Tensor, "n 4"],
    object_score_logits: Float[Tensor, "n 1"],
    masks: Bool[Tensor, "n h w"],
) -> PromptLosses:
    """Computes all loss terms of every prompt.

    Args:
        mask_logits: Output of the decoder's four mask tokens; token 0 is the single mask.
        iou_pred: Output of the IoU head for each token.
        object_score_logits: Output of the object score head.
        masks: Truth at the resolution of the logits. A mask without a pixel is a negative prompt:
            only the object score learns from it.

    Returns:
        Float32 losses per prompt; all empty for ``n == 0``.
    """
    present = masks.any(dim=2).any(dim=1).float()
    dice = dice_loss(mask_logits, masks)
    bce = bce_loss(mask_logits, masks)
    iou = (iou_pred.float() - mask_iou(mask_logits, masks)).abs()
    with torch.autocast(mask_logits.device.type, enabled=False):
        object_score = binary_cross_entropy_with_logits(
            object_score_logits[:, 0].float(), present, reduction="none"
        )
    return PromptLosses(
        dice=dice[:, 0] * present,
        bce=bce[:, 0] * present,
        multimask=(dice + bce)[:, 1:].mean(dim=1) * present,
        iou=iou.mean(dim=1) * present,
        object_score=object_score,
    )
