"""The networks of ``segment_anything``: built by the package, named by their weights."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from medsam2_ft.errors import UserError

TINY: Final = "tiny_test"
_TINY_SIZE: Final = 64
_PATCH: Final = 16
_PROMPT_DIM: Final = 256
_PATCH_WEIGHT: Final = "image_encoder.patch_embed.proj.weight"
# Width of the encoder -> its name.
_WIDTHS: Final = {16: TINY, 768: "vit_b", 1024: "vit_l", 1280: "vit_h"}


def build_core(encoder: str) -> Any:
    """Builds a ``Sam`` with random weights (reproducible under torch's global seed).

    Args:
        encoder: ``vit_b``, ``vit_l``, ``vit_h``, or ``tiny_test``: the same network with a small
            encoder.

    Returns:
        On the CPU, in evaluation mode.

    Raises:
        UserError: ``segment_anything`` is not installed.
    """
    try:
        from segment_anything import sam_model_registry
    except ImportError as error:
        raise UserError(
            "SAM and MedSAM need the package segment-anything: pip install 'medsam2-ft[baselines]'"
        ) from error
    return _build_tiny() if encoder == TINY else sam_model_registry[encoder]()


def _build_tiny() -> Any:
    """The package's own classes put together as its ``build_sam`` does, only smaller."""
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    size, grid = _TINY_SIZE, _TINY_SIZE // _PATCH
    encoder = ImageEncoderViT(
        img_size=size,
        patch_size=_PATCH,
        embed_dim=16,
        depth=2,
        num_heads=2,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
        out_chans=_PROMPT_DIM,
    )
    prompts = PromptEncoder(
        embed_dim=_PROMPT_DIM,
        image_embedding_size=(grid, grid),
        input_image_size=(size, size),
        mask_in_chans=16,
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=_PROMPT_DIM, mlp_dim=64, num_heads=8)
    decoder = MaskDecoder(transformer_dim=_PROMPT_DIM, transformer=transformer)
    return Sam(encoder, prompts, decoder).eval()


def guess_encoder(state: Mapping[str, Tensor]) -> str | None:
    """Names the encoder that a state belongs to; None where it is not of this family."""
    patch = state.get(_PATCH_WEIGHT)
    return None if patch is None else _WIDTHS.get(int(patch.shape[0]))


def decode_boxes(core: Any, features: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Runs prompt encoder and mask decoder, one mask per box.

    Args:
        core: The network.
        features: Of one image.
        boxes_xyxy: ``(n, 4)`` float32 in pixels of the network's input.

    Returns:
        ``(n, 1, l, l)`` logits at a quarter of the input size, float32.
    """
    sparse, dense = core.prompt_encoder(points=None, boxes=boxes_xyxy, masks=None)
    logits, _ = core.mask_decoder(
        image_embeddings=features,
        image_pe=core.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return torch.as_tensor(logits).float()
