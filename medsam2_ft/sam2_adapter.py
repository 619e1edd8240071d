"""The only place that knows the ``sam2`` package: build, load, encode, decode, track.

Meta's model is used as it is released, configured by overrides of its own YAML files; nothing is
copied or patched. ``Sam2.core.state_dict()`` has the official key names.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medsam2_ft.errors import UserError
from medsam2_ft.weights import VARIANTS, guess_variant, load_state, resolve_weights

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


@dataclass(frozen=True)
class Encoding:
    """Image features of ``b`` slices, before any memory or no-memory embedding is added.

    Attributes:
        levels: Features at strides 4, 8 and 16 with 32, 64 and 256 channels.
    """

    levels: tuple[
        Float[Tensor, "b c4 h4 w4"], Float[Tensor, "b c8 h8 w8"], Float[Tensor, "b c16 h16 w16"]
    ]

    def select(self, image_index: Int[Tensor, " n"]) -> "Encoding":
        """Returns the features of the given slices, one row per index, repeats allowed."""
        fine, middle, coarse = (level[image_index] for level in self.levels)
        return Encoding((fine, middle, coarse))

    def detach(self) -> "Encoding":
        """Returns the same features outside the autograd graph."""
        fine, middle, coarse = (level.detach() for level in self.levels)
        return Encoding((fine, middle, coarse))

    @property
    def nbytes(self) -> int:
        """Memory that the features take, in bytes."""
        return sum(level.nbytes for level in self.levels)


@dataclass(frozen=True)
class Decoded:
    """Masks of ``n`` prompts, ``m`` of them per prompt (1, or 4 for all tokens).

    Attributes:
        mask_logits: Logits at a quarter of the input size.
        iou: Predicted IoU of each mask, 0-1.
        object_score_logits: Logit of "the object is in this slice".
    """

    mask_logits: Float[Tensor, "n m l l"]
    iou: Float[Tensor, "n m"]
    object_score_logits: Float[Tensor, "n 1"]


@dataclass(frozen=True)
class Tracked:
    """One frame of memory propagation for ``n`` objects.

    Attributes:
        mask_logits: Logits at a quarter of the input size; -1024 everywhere where the model says
            that the object is absent, as in Meta's video predictor.
        memory_features: Spatial memory in bfloat16 (Meta stores it so).
        memory_position: Position encoding of ``memory_features``, the same for every frame.
        pointer: Object pointers.
        object_score_logits: Logit of "the object is in this frame".
    """

    mask_logits: Float[Tensor, "n 1 l l"]
    memory_features: Float[Tensor, "n c h w"]
    memory_position: Float[Tensor, "1 c h w"]
    pointer: Float[Tensor, "n d"]
    object_score_logits: Float[Tensor, "n 1"]


class Sam2(nn.Module):
    """SAM2 as the rest of the package sees it. Build it with ``build_model``.

    Args:
        core: Meta's ``SAM2Base``.
        variant: Name of the model.
        image_size: Side of its square input in pixels.
    """

    core: Any

    def __init__(self, core: nn.Module, variant: str, image_size: int) -> None:
        super().__init__()
        self.core = core
        self.variant = variant
        self.image_size = image_size

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.core.parameters()).device  # type: ignore[no-any-return]

    def encode(self, images: Float[Tensor, "b 3 s s"]) -> Encoding:
        """Runs the image encoder.

        Args:
            images: Normalised slices of the model's size (``resize.to_input``, ``normalize``).

        Returns:
            Features for ``decode``, ``decode_all`` and ``track``.
        """
        fine, middle, coarse = self.core.forward_image(images)["backbone_fpn"]
        return Encoding((fine, middle, coarse))

    def decode_all(
        self,
        encoding: Encoding,
        image_index: Int[Tensor, " n"],
        boxes_xyxy: Float[Tensor, "n 4"],
    ) -> Decoded:
        """Decodes one box per prompt and returns all four mask tokens, for training.

        Args:
            encoding: Features of ``b`` slices.
            image_index: Slice of each prompt, 0 to ``b - 1``.
            boxes_xyxy: Boxes in pixels of the model's input.

        Returns:
            Token 0 is the single mask, tokens 1-3 are the alternatives for ambiguous prompts.
            Without prompts the result is empty and still connected to every parameter, so that
            ranks of a distributed run with nothing to segment take part in the same reductions.
        """
        if len(boxes_xyxy) == 0:
            # One dummy prompt, cut away again: some attention and convolution kernels refuse an
            # empty batch.
            one = self._tokens(encoding, image_index.new_zeros(1), boxes_xyxy.new_zeros((1, 4)))
            return Decoded(one.mask_logits[:0], one.iou[:0], one.object_score_logits[:0])
        return self._tokens(encoding, image_index, boxes_xyxy)

    def decode(
        self,
        encoding: Encoding,
        image_index: Int[Tensor, " n"],
        boxes_xyxy: Float[Tensor, "n 4"],
    ) -> Decoded:
        """Decodes one box per prompt to one mask, as ``SAM2ImagePredictor`` does.

        An unstable single mask is replaced by the best of the three alternatives (Meta's
        ``dynamic_multimask_via_stability``), in training mode too. The object score blanks
        nothing here.

        Args:
            encoding: Features of ``b`` slices.
            image_index: Slice of each prompt, 0 to ``b - 1``.
            boxes_xyxy: Boxes in pixels of the model's input.

        Returns:
            One mask per prompt; empty without prompts.
        """
        tokens = self.decode_all(encoding, image_index, boxes_xyxy)
        decoder = self.core.sam_mask_decoder
        if decoder.dynamic_multimask_via_stability:
            masks, iou = decoder._dynamic_multimask_via_stability(tokens.mask_logits, tokens.iou)
        else:
            masks, iou = tokens.mask_logits[:, :1], tokens.iou[:, :1]
        return Decoded(masks, iou, tokens.object_score_logits)

    def _tokens(
        self,
        encoding: Encoding,
        image_index: Int[Tensor, " n"],
        boxes_xyxy: Float[Tensor, "n 4"],
    ) -> Decoded:
        """Runs prompt encoder and mask decoder for at least one prompt."""
        core = self.core
        sparse, dense = core.sam_prompt_encoder(
            points=_box_points(boxes_xyxy), boxes=None, masks=None
        )
        # The prompts of a single slice share its features by broadcasting. Several slices are
        # gathered: the additions that use the copies keep none of them for the backward pass.
        shared = len(encoding.levels[0]) == 1
        fine, middle, coarse = (encoding if shared else encoding.select(image_index)).levels
        if core.directly_add_no_mem_embed:
            coarse = coarse + core.no_mem_embed.reshape(1, -1, 1, 1)
        masks, iou, _, object_score_logits = core.sam_mask_decoder.predict_masks(
            image_embeddings=coarse,
            image_pe=core.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=shared,
            high_res_features=[fine, middle],
        )
        return Decoded(masks, iou, object_score_logits)

    def track(
        self,
        encoding: Encoding,
        frame: int,
        memory: Mapping[str, Mapping[int, Mapping[str, Any]]],
        *,
        boxes_xyxy: Float[Tensor, "n 4"] | None,
        objects: int,
        num_frames: int,
        reverse: bool,
    ) -> Tracked:
        """Segments ``n`` objects in one frame with SAM2's memory, in inference only.

        Args:
            encoding: Features of this one frame (``b == 1``).
            frame: Its index.
            memory: Meta's ``output_dict``: ``cond_frame_outputs`` and ``non_cond_frame_outputs``
                by frame, each entry batched over the same ``n`` objects.
            boxes_xyxy: Box prompts in input pixels where this is the prompted frame (memory is
                then not read), else None.
            objects: ``n``.
            num_frames: Length of the volume; bounds how far back pointers reach.
            reverse: Whether frames are visited from last to first.

        Returns:
            Masks, and the memory that later frames read.
        """
        if self.training:
            raise RuntimeError("track needs evaluation mode: call model.eval() first.")
        core = self.core
        levels = [level.expand(objects, -1, -1, -1) for level in encoding.levels]
        position = core.image_encoder.neck.position_encoding(encoding.levels[-1])
        position = position.to(encoding.levels[-1].dtype).expand(objects, -1, -1, -1)
        prompted = boxes_xyxy is not None
        points = (
            dict(zip(("point_coords", "point_labels"), _box_points(boxes_xyxy), strict=True))
            if boxes_xyxy is not None
            else None
        )
        out = core.track_step(
            frame_idx=frame,
            is_init_cond_frame=prompted,
            current_vision_feats=[level.flatten(2).permute(2, 0, 1) for level in levels],
            current_vision_pos_embeds=[position.flatten(2).permute(2, 0, 1)],
            feat_sizes=[tuple(level.shape[-2:]) for level in levels],
            point_inputs=points,
            mask_inputs=None,
            output_dict=memory,
            num_frames=num_frames,
            track_in_reverse=reverse,
        )
        return Tracked(
            mask_logits=out["pred_masks"],
            memory_features=out["maskmem_features"].to(torch.bfloat16),
            memory_position=out["maskmem_pos_enc"][-1][:1],
            pointer=out["obj_ptr"],
            object_score_logits=out["object_score_logits"],
        )


def _box_points(boxes_xyxy: Float[Tensor, "n 4"]) -> tuple[Tensor, Tensor]:
    """Returns boxes as SAM2 reads them: two corner points with labels 2 and 3."""
    labels = torch.tensor([[2, 3]], dtype=torch.int32, device=boxes_xyxy.device)
    return boxes_xyxy.float().reshape(-1, 2, 2), labels.expand(len(boxes_xyxy), -1)


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

    tiny = variant == TINY_TEST
    base = VARIANTS["sam2.1_hiera_tiny" if tiny else variant]
    overrides = [
        f"++model.image_size={image_size}",
        # What build_sam2_video_predictor sets and build_sam2 does not; images do not notice it.
        "++model.binarize_mask_from_pts_for_mem_enc=true",
        *(_TINY_OVERRIDES if tiny else ()),
    ]
    return build_sam2(base.config, None, device="cpu", hydra_overrides_extra=overrides)


def _load(core: nn.Module, state: Mapping[str, Tensor], path: Path, variant: str) -> None:
    """Loads a state strictly.

    Raises:
        UserError: A tensor is missing, has another shape, or does not belong; the message names
            the first such tensor and the variant that the file looks like.
    """
    own = core.state_dict()
    problem = None
    for key, tensor in own.items():
        if key not in state:
            problem = f"{key} is missing"
        elif state[key].shape != tensor.shape:
            problem = f"{key} has shape {tuple(state[key].shape)}, not {tuple(tensor.shape)}"
        if problem:
            break
    else:
        extra = next((key for key in state if key not in own), None)
        problem = f"{extra} does not belong" if extra else None
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


def enable_activation_checkpointing(model: Sam2) -> None:
    """Recomputes encoder blocks in the backward pass instead of keeping their activations.

    Gradients stay the same bit for bit; state keys and parameter names do not change. Calling it
    again changes nothing.
    """
    for block in model.core.image_encoder.trunk.blocks:
        if not isinstance(block.forward, partial):
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
