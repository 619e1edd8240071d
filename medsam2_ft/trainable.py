"""Which parameters of SAM2 train: chosen by name, minus those that the losses do not reach."""

from typing import Literal, get_args

from medsam2_ft.errors import UserError
from medsam2_ft.losses import LossWeights
from medsam2_ft.sam2_adapter import Sam2, encoder_stage_parameters

TrainableParts = Literal[
    "encoder+decoder",
    "decoder",
    "last_1_stages+decoder",
    "last_2_stages+decoder",
    "last_3_stages+decoder",
    "reached",
]

ENCODER = "image_encoder."
DECODER = "sam_mask_decoder."
# What a box prompt on a still image touches outside encoder and decoder: the embeddings of the two
# box corners and of the padding point, "no mask given", and "no memory yet".
PROMPT_PATH = (
    "sam_prompt_encoder.point_embeddings.2.",
    "sam_prompt_encoder.point_embeddings.3.",
    "sam_prompt_encoder.no_mask_embed.",
    "no_mem_embed",
)


def unreached_prefixes(weights: LossWeights) -> tuple[str, ...]:
    """Names the decoder's heads to which no gradient flows because their loss has weight 0."""
    heads: tuple[str, ...] = ()
    if weights.dice == 0 and weights.bce == 0:
        heads += (f"{DECODER}output_hypernetworks_mlps.0.",)
    if weights.multimask == 0:
        heads += tuple(f"{DECODER}output_hypernetworks_mlps.{token}." for token in (1, 2, 3))
    if weights.iou == 0:
        heads += (f"{DECODER}iou_prediction_head.",)
    if weights.object_score == 0:
        heads += (f"{DECODER}pred_obj_score_head.",)
    return heads


def trainable_names(model: Sam2, parts: TrainableParts, weights: LossWeights) -> set[str]:
    """Names the parameters of ``model.core`` that train.

    Args:
        model: The adapter around Meta's model.
        parts: The choice by name, see `FineTuner`.
        weights: Losses; what they do not reach is left out.

    Raises:
        UserError: ``parts`` is not one of the names.
    """
    if parts not in get_args(TrainableParts):
        raise UserError(f"trainable={parts!r}: choose one of {', '.join(get_args(TrainableParts))}")
    prefixes: tuple[str, ...] = (DECODER,)
    stages: set[str] = set()
    if parts in ("encoder+decoder", "reached"):
        prefixes += (ENCODER,)
    if parts == "reached":
        prefixes += PROMPT_PATH
    if parts.startswith("last_"):
        stages = encoder_stage_parameters(model, int(parts.removeprefix("last_")[0]))
    unreached = unreached_prefixes(weights)
    return {
        name
        for name, _ in model.core.named_parameters()
        if (name.startswith(prefixes) or f"core.{name}" in stages)
        and not name.startswith(unreached)
    }


def freeze_all_but(model: Sam2, parts: TrainableParts, weights: LossWeights) -> None:
    """Sets ``requires_grad`` of every parameter; DDP then needs no search for unused ones."""
    names = trainable_names(model, parts, weights)
    for name, parameter in model.core.named_parameters():
        parameter.requires_grad_(name in names)
