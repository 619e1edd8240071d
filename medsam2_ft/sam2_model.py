"""SAM2 as the rest of the package sees it: encode a slice, decode boxes, track with memory.

Calls four entry points of Meta's model (``forward_image``, the prompt encoder, the mask decoder's
``predict_masks``, ``track_step``) and hides their layouts. ``sam2_adapter.build_model`` makes it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medsam2_ft.features import Decoded, Encoding, PromptTensors, Tracked
from medsam2_ft.memory import MemoryReach
from medsam2_ft.resize import to_input


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
        images = images.contiguous(memory_format=torch.channels_last)
        fine, middle, coarse = self.core.forward_image(images)["backbone_fpn"]
        return Encoding((fine, middle, coarse))

    def encode_frame(
        self, frame: UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]
    ) -> Encoding:
        """Resizes, normalises and encodes one slice (``b == 1``)."""
        image = torch.from_numpy(frame)[None].to(self.device)
        return self.encode(to_input(image, self.image_size))

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
            dummy = _box_points(boxes_xyxy.new_zeros((1, 4)))
            one = self._tokens(encoding, image_index.new_zeros(1), dummy)
            return Decoded(one.mask_logits[:0], one.iou[:0], one.object_score_logits[:0])
        return self._tokens(encoding, image_index, _box_points(boxes_xyxy))

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
        return self.single_mask(self.decode_all(encoding, image_index, boxes_xyxy))

    def single_mask(self, tokens: Decoded) -> Decoded:
        """Chooses one mask per prompt from the four of ``decode_all``, as ``decode`` does."""
        decoder = self.core.sam_mask_decoder
        if decoder.dynamic_multimask_via_stability:
            masks, iou = decoder._dynamic_multimask_via_stability(tokens.mask_logits, tokens.iou)
        else:
            masks, iou = tokens.mask_logits[:, :1], tokens.iou[:, :1]
        return Decoded(masks, iou, tokens.object_score_logits)

    def decode_prompts(self, encoding: Encoding, prompts: PromptTensors) -> Decoded:
        """Decodes points, boxes and previous masks on one slice, as ``SAM2ImagePredictor`` does.

        A single point may mean several things: it takes the best of the three alternatives, by
        their predicted IoU. Everything else takes the single mask, as ``decode`` does.

        Args:
            encoding: Features of this slice (``b == 1``).
            prompts: Points of at least one object.

        Returns:
            One mask per object.

        Raises:
            ValueError: Masks are given: they need no decoder.
        """
        if prompts.points_xy is None or prompts.point_labels is None:
            raise ValueError("decode_prompts takes points; a mask is its own result.")
        image_index = torch.zeros(len(prompts), dtype=torch.int64, device=self.device)
        points = (prompts.points_xy, prompts.point_labels)
        tokens = self._tokens(encoding, image_index, points, prompts.previous_logits)
        if prompts.points_xy.shape[1] > 1:
            return self.single_mask(tokens)
        best = tokens.iou[:, 1:].argmax(dim=1) + 1
        rows = torch.arange(len(prompts), device=self.device)
        chosen = tokens.mask_logits[rows, best][:, None], tokens.iou[rows, best][:, None]
        return Decoded(*chosen, tokens.object_score_logits)

    def _tokens(
        self,
        encoding: Encoding,
        image_index: Int[Tensor, " n"],
        points: tuple[Float[Tensor, "n p 2"], Int[Tensor, "n p"]],
        previous_logits: Float[Tensor, "n 1 l l"] | None = None,
    ) -> Decoded:
        """Runs prompt encoder and mask decoder for at least one prompt."""
        core = self.core
        sparse, dense = core.sam_prompt_encoder(points=points, boxes=None, masks=previous_logits)
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

    def mask_logits_of(self, masks: Float[Tensor, "n 1 s s"]) -> Float[Tensor, "n 1 l l"]:
        """Returns drawn masks as the logits that Meta's video predictor makes of them: +-10."""
        side = self.image_size // 4
        return interpolate(
            masks.float() * 20.0 - 10.0,
            (side, side),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )

    @property
    def memory_reach(self) -> MemoryReach:
        """How many frames back tracking reads memory features and object pointers."""
        core = self.core
        stride = core.memory_temporal_stride_for_eval
        return MemoryReach((core.num_maskmem - 1) * stride, core.max_obj_ptrs_in_encoder - 1)

    def track(
        self,
        encoding: Encoding,
        frame: int,
        memory: Mapping[str, Mapping[int, Mapping[str, Any]]] | None,
        prompts: PromptTensors | None,
        *,
        num_frames: int,
        reverse: bool,
    ) -> Tracked:
        """Segments ``n`` objects in one frame as ``SAM2VideoPredictor`` does, in inference only.

        Holes are not filled: Meta's predictor does it only where its CUDA extension is built.

        Args:
            encoding: Features of this one frame (``b == 1``).
            frame: Its index.
            memory: Meta's ``output_dict`` (``memory.joint_memory``), each entry batched over the
                same ``n`` objects; None where no memory is read, on a frame that is prompted
                before it was tracked.
            prompts: What the user says about the objects in this frame; with memory they correct.
            num_frames: Length of the volume; bounds how far back pointers reach.
            reverse: Whether frames are visited from last to first.

        Returns:
            Masks, and the memory that later frames read.

        Raises:
            ValueError: There is neither memory nor a prompt.
        """
        core = self.core
        if prompts is not None:
            count = len(prompts)
        elif memory is not None:
            count = len(next(iter(memory["cond_frame_outputs"].values()))["obj_ptr"])
        else:
            raise ValueError("track takes prompts, memory, or both.")
        levels = [level.expand(count, -1, -1, -1) for level in encoding.levels]
        position = core.image_encoder.neck.position_encoding(encoding.levels[-1])
        position = position.to(levels[-1].dtype).expand(count, -1, -1, -1)
        features = [_sequence(level) for level in levels]
        sizes = [tuple(level.shape[-2:]) for level in levels]
        points, masks, previous = _track_inputs(prompts)
        out = core.track_step(
            frame_idx=frame,
            is_init_cond_frame=memory is None,
            current_vision_feats=features,
            current_vision_pos_embeds=[_sequence(position)],
            feat_sizes=sizes,
            point_inputs=points,
            mask_inputs=masks,
            output_dict=memory,
            num_frames=num_frames,
            track_in_reverse=reverse,
            run_mem_encoder=prompts is None,
            prev_sam_mask_logits=previous,
        )
        if prompts is None:
            features_out, position_out = out["maskmem_features"], out["maskmem_pos_enc"]
        else:
            # As Meta's predictor before it propagates: what a user has confirmed is remembered as
            # a mask of zeros and ones, also where it was drawn.
            features_out, position_out = core._encode_new_memory(
                current_vision_feats=features,
                feat_sizes=sizes,
                pred_masks_high_res=self._at_input_size(out["pred_masks"]),
                object_score_logits=out["object_score_logits"],
                is_mask_from_pts=True,
            )
        return Tracked(
            mask_logits=out["pred_masks"],
            memory_features=features_out.to(torch.bfloat16),
            memory_position=position_out[-1][:1],
            pointer=out["obj_ptr"],
            object_score_logits=out["object_score_logits"],
        )

    def _at_input_size(self, logits: Float[Tensor, "n 1 l l"]) -> Float[Tensor, "n 1 s s"]:
        side = (self.image_size, self.image_size)
        return interpolate(logits, side, mode="bilinear", align_corners=False)


def _track_inputs(
    prompts: PromptTensors | None,
) -> tuple[dict[str, Tensor] | None, Tensor | None, Tensor | None]:
    """Prompts as ``track_step`` takes them: points, masks, previous logits."""
    if prompts is None:
        return None, None, None
    if prompts.points_xy is None or prompts.point_labels is None:
        return None, prompts.masks, None
    points = {"point_coords": prompts.points_xy, "point_labels": prompts.point_labels}
    return points, None, prompts.previous_logits


def _sequence(level: Float[Tensor, "n c h w"]) -> Float[Tensor, "hw n c"]:
    """Flattens a feature map to the sequence layout of SAM2's memory attention."""
    return level.flatten(2).permute(2, 0, 1)


def _box_points(boxes_xyxy: Float[Tensor, "n 4"]) -> tuple[Tensor, Tensor]:
    """Returns boxes as SAM2 reads them: two corner points with labels 2 and 3."""
    # made on the device: a copy from the host would wait for everything that the GPU has to do
    labels = torch.arange(2, 4, dtype=torch.int32, device=boxes_xyxy.device)[None]
    return boxes_xyxy.float().reshape(-1, 2, 2), labels.expand(len(boxes_xyxy), -1)
