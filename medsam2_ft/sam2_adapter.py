"""The only importer of the ``sam2`` package: builds its models and loads their weights.

Meta's model is used as it is released, configured by overrides of its own YAML files; its
parameters and keys stay as they are. ``fast_encoder`` replaces some methods of its encoder.
``Sam2.core.state_dict()`` has the official key names.
"""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medsam2_ft.errors import UserError
from medsam2_ft.fast_encoder import speed_up
from medsam2_ft.features import Decoded, Encoding, Tracked
from medsam2_ft.sam2_model import Sam2
from medsam2_ft.weights import VARIANTS, guess_variant, load_state, mismatch, resolve_weights

__all__ = [
    "TINY_TEST",
    "Decoded",
    "Encoding",
    "Sam2",
    "Tracked",
    "build_model",
    "enable_activation_checkpointing",
    "encoder_stage_parameters",
    "image_predictor",
    "video_predictor",
]

logger = logging.getLogger(__name__)

TINY_TEST: Final = "tiny_test"
# The first stage's windows of 8 patches of 4 pixels must tile the image, and level 3 (stride 32)
# must double to level 2.
SIZE_MULTIPLE: Final = 32

# A real SAM2 in miniature, for tests. A block with global attention must not be the first of its
# stage (Meta's window arithmetic then divides by zero).
_TINY_OVERRIDES: Final = (
    "model.image_encoder.trunk.embed_dim=16",
    "model.image_encoder.trunk.stages=[1,1,2,1]",
    "model.image_encoder.trunk.global_att_blocks=[3]",
    "++model.image_encoder.trunk.window_spec=[4,4,4,4]",
    "model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "model.memory_attention.num_layers=1",
    "model.memory_attention.layer.self_attention.feat_sizes=[4,4]",
    "model.memory_attention.layer.cross_attention.feat_sizes=[4,4]",
)


def build_model(
    variant: str,
    *,
    image_size: int = 1024,
    weights: str = "pretrained",
    device: str | torch.device = "cpu",
) -> Sam2:
    """Builds a SAM2 with Meta's default settings and loads its weights.

    Args:
        variant: One of ``weights.VARIANTS``, or ``tiny_test`` (a miniature for tests, no released
            weights; 64 is a good size for it).
        image_size: Side of the input in pixels, a multiple of 32.
        weights: ``pretrained``, ``random`` (reproducible under torch's global seed), or the path
            of an official file, of our exports or of a training checkpoint.
        device: Where the model goes.

    Returns:
        The model in evaluation mode, every parameter with ``requires_grad``.

    Raises:
        UserError: Unknown variant, impossible size, or weights that are missing, unreadable or
            of another variant.
    """
    if variant != TINY_TEST and variant not in VARIANTS:
        names = ", ".join([*VARIANTS, TINY_TEST])
        raise UserError(f"model variant {variant!r} is unknown. Choose one of: {names}.")
    if image_size < SIZE_MULTIPLE or image_size % SIZE_MULTIPLE:
        raise UserError(
            f"image size {image_size} does not fit SAM2. Use a multiple of {SIZE_MULTIPLE}, "
            "such as 256, 512 or 1024."
        )
    path = resolve_weights(weights, variant)
    state = None if path is None else load_state(path)
    core = _build_core(variant, image_size)
    if path is None or state is None:
        logger.warning(
            "RANDOM WEIGHTS: %s starts untrained. Masks mean nothing until it is trained.", variant
        )
    else:
        _load(core, state, path, variant)
    return Sam2(core.to(device), variant, image_size).eval()


def _build_core(variant: str, image_size: int) -> Any:
    """Instantiates Meta's model from its own YAML."""
    from sam2.build_sam import build_sam2

    config, overrides = meta_config(variant, image_size)
    # What build_sam2_video_predictor sets and build_sam2 does not; images do not notice it.
    overrides = [*overrides, "++model.binarize_mask_from_pts_for_mem_enc=true"]
    core = build_sam2(config, None, device="cpu", hydra_overrides_extra=overrides)
    speed_up(core)
    return core


def meta_config(variant: str, image_size: int) -> tuple[str, list[str]]:
    """Returns the config file inside ``sam2`` and the overrides that make the variant of it."""
    tiny = variant == TINY_TEST
    config = VARIANTS["sam2.1_hiera_tiny" if tiny else variant].config
    return config, [f"++model.image_size={image_size}", *(_TINY_OVERRIDES if tiny else ())]


def _load(core: nn.Module, state: Mapping[str, Tensor], path: Path, variant: str) -> None:
    """Loads a state strictly.

    Raises:
        UserError: A tensor is missing, has another shape, or does not belong; the message names
            the first such tensor and the variant that the file looks like.
    """
    problem = mismatch(core.state_dict(), state)
    if problem:
        likely = guess_variant(state)
        hint = f"It looks like {likely}: choose that variant." if likely else "Check the variant."
        raise UserError(f"{path}: not a checkpoint of {variant}: {problem}. {hint}")
    core.load_state_dict(state, strict=True)


def image_predictor(model: Sam2) -> Any:
    """Returns Meta's ``SAM2ImagePredictor`` around the same weights, for any image size."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(model.core)
    # Fixed to 1024 in Meta's class; without this line smaller inputs fail.
    predictor._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    return predictor


def video_predictor(model: Sam2) -> Any:
    """Returns Meta's ``SAM2VideoPredictor`` with a copy of the weights, on the same device."""
    from sam2.build_sam import build_sam2_video_predictor

    config, overrides = meta_config(model.variant, model.image_size)
    predictor = build_sam2_video_predictor(
        config, None, device=str(model.device), hydra_overrides_extra=overrides
    )
    predictor.load_state_dict(model.core.state_dict(), strict=True)
    return predictor


def enable_activation_checkpointing(model: Sam2) -> None:
    """Recomputes encoder blocks in the backward pass instead of keeping their activations.

    Gradients stay the same bit for bit; state keys and parameter names do not change. Calling it
    again changes nothing.
    """
    for block in model.core.image_encoder.trunk.blocks:
        if getattr(block.forward, "func", None) is not checkpoint:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def encoder_stage_parameters(model: Sam2, stages: int) -> set[str]:
    """Names the parameters of the encoder's last stages and of the neck that follows them.

    Args:
        model: Any variant; all have four stages.
        stages: How many stages from the end, 0 (none, and no neck) to 4 (all but the patch and
            position embeddings).

    Returns:
        Names as in ``model.named_parameters()``.

    Raises:
        UserError: ``stages`` is out of range.
    """
    ends = model.core.image_encoder.trunk.stage_ends
    if not 0 <= stages <= len(ends):
        raise UserError(f"the encoder has {len(ends)} stages, so {stages} cannot be its last ones.")
    if stages == 0:
        return set()
    first = 0 if stages == len(ends) else ends[-stages - 1] + 1
    blocks = range(first, ends[-1] + 1)
    prefixes = tuple(f"core.image_encoder.trunk.blocks.{block}." for block in blocks)
    return {
        name
        for name, _ in model.named_parameters()
        if name.startswith((*prefixes, "core.image_encoder.neck."))
    }
