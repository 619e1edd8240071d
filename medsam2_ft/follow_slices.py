"""Following by boxes with a model that segments single slices."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from medsam2_ft.box_trail import MARGIN_REFERENCE_SIZE, BoxTrail, Fallback
from medsam2_ft.errors import UserError
from medsam2_ft.follow import OBJECTS_PER_PASS, Prompted
from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.slice_model import SliceModel


class SliceFollower:
    """Prompts each frame with the box of the previous mask, in one-shot runs.

    Boxes are kept in pixels of a 1024 input whatever the model's own size and padding are, so that
    models that are compared get the same boxes for the same masks.

    Args:
        model: Segments boxes on slices.
        hw: Height and width of the frames.
        margin_px: Margin around the previous mask's tight box, in pixels of a 1024 input.
        fallback: Which box an empty mask leaves for the next frame: the last one, or the first
            that the object was prompted with.
    """

    reads_ahead = False

    def __init__(
        self, model: SliceModel, hw: tuple[int, int], margin_px: float, fallback: Fallback
    ) -> None:
        self.model = model
        self.hw = hw
        self.trail = BoxTrail(hw, MARGIN_REFERENCE_SIZE, margin_px, fallback)

    def prompt(
        self, frame: int, encoding: Tensor, group: Sequence[Prompted]
    ) -> Float[Tensor, "n h w"]:
        """Segments objects from the boxes that a user gave."""
        boxes = []
        for object_id, prompt in group:
            assert prompt.box_xyxy is not None  # check_boxes_only
            self.trail.prompted(object_id, prompt.box_xyxy)
            boxes.append(prompt.box_xyxy)
        ids = [object_id for object_id, _ in group]
        return self._segment(frame, encoding, ids, np.stack(boxes), keep=True)

    def follow(
        self, frame: int, encoding: Tensor, object_ids: Sequence[int], reverse: bool
    ) -> Float[Tensor, "n h w"]:
        """Segments objects from the boxes of their last masks."""
        boxes = self.trail.native(object_ids)
        return self._segment(frame, encoding, object_ids, boxes, keep=False)

    def prompted(self, frame: int, object_id: int) -> None:
        """Nothing is known of a frame before the sweep comes there."""

    def visited(self, frame: int, object_ids: Sequence[int], reverse: bool) -> None:
        """Goes on from the masks of this frame."""
        self.trail.visited(frame, object_ids)

    def turn_back(self) -> None:
        """Returns to the boxes that follow the first prompted frames."""
        self.trail.turn_back()

    def _segment(
        self,
        frame: int,
        encoding: Tensor,
        ids: Sequence[int],
        boxes_xyxy: Float32[np.ndarray, "n 4"],
        *,
        keep: bool,
    ) -> Float[Tensor, "n h w"]:
        parts = [
            self.model.box_logits(encoding, boxes_xyxy[i : i + OBJECTS_PER_PASS], self.hw)
            for i in range(0, len(ids), OBJECTS_PER_PASS)
        ]
        logits = torch.cat(parts)
        for object_id, mask in zip(ids, (logits > 0).cpu().numpy(), strict=True):
            self.trail.advance(frame, object_id, mask, keep=keep)
        return logits


def check_boxes_only(prompts: Sequence[ObjectPrompt], model_name: str) -> None:
    """Refuses prompts other than boxes, naming the object.

    Raises:
        UserError: Points or a mask on some slice.
    """
    for prompt in prompts:
        for part in prompt.slices:
            if part.box_xyxy is None or part.mask is not None or len(part.points_xy):
                raise UserError(
                    f"object {prompt.object_id}: {model_name} takes boxes here, no points and no "
                    f"masks; give a box on slice {part.frame}."
                )
