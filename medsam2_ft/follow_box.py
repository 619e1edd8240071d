"""Following by boxes: the box of the previous mask prompts the next frame."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medsam2_ft.box_trail import BoxTrail, Fallback
from medsam2_ft.features import Encoding
from medsam2_ft.follow import Follower, Prompted, in_order, kind_of, passes
from medsam2_ft.sam2_adapter import Sam2

# What Meta's models answer where they see no object.
NO_OBJECT_LOGIT: Final = -1024.0


class BoxFollower(Follower):
    """Prompts each frame with the box of the previous mask.

    Args:
        model: Any SAM2.
        hw: Height and width of the frames.
        margin_px: Margin around the previous mask's tight box, in pixels of a 1024 input.
        remember: Keeps masks and the box of every frame, so that prompts correct and a sweep can
            start anywhere.
        fallback: Which box an empty mask leaves for the next frame: the last one, or the first
            that the object was prompted with.
    """

    reads_ahead = False

    def __init__(
        self,
        model: Sam2,
        hw: tuple[int, int],
        margin_px: float,
        remember: bool = False,
        fallback: Fallback = "last",
    ) -> None:
        super().__init__(model, hw)
        self.remember = remember
        self.trail = BoxTrail(hw, model.image_size, margin_px, fallback)
        # Masks by object and frame, of prompts and of other frames; only where ``remember``.
        self.given: dict[tuple[int, int], Float[Tensor, "1 1 l l"]] = {}
        self.found: dict[tuple[int, int], Float[Tensor, "1 1 l l"]] = {}

    def prompt(
        self, frame: int, encoding: Encoding, group: Sequence[Prompted]
    ) -> Float[Tensor, "n h w"]:
        """Segments objects as prompted; points correct the mask that is known of this frame."""

        def previous(item: Prompted) -> Float[Tensor, "1 1 l l"] | None:
            key = item[0], frame
            return self.given.get(key, self.found.get(key))

        parts = []
        for positions, items in passes(group, lambda i: (kind_of(i[1]), previous(i) is None)):
            tensors = self.tensors([p for _, p in items], [previous(item) for item in items])
            if tensors.masks is not None:
                logits = self.model.mask_logits_of(tensors.masks)
            else:
                logits = self.model.decode_prompts(encoding, tensors).mask_logits
            parts.append((positions, logits))
        joined = in_order(parts)
        for row, (object_id, prompt) in enumerate(group):
            if self.remember:
                self.given[object_id, frame] = joined[row : row + 1]
                self.found.pop((object_id, frame), None)
            if prompt.box_xyxy is not None:
                self.trail.prompted(object_id, prompt.box_xyxy)
        return self._advance(frame, [object_id for object_id, _ in group], joined, keep=True)

    def follow(
        self, frame: int, encoding: Encoding, object_ids: Sequence[int], reverse: bool
    ) -> Float[Tensor, "n h w"]:
        """Segments objects from their last boxes; one that never had a mask stays absent."""
        parts = [
            (positions, self._decode(encoding, ids))
            for positions, ids in passes(object_ids, lambda object_id: object_id in self.trail)
        ]
        joined = in_order(parts)
        if self.remember:
            for row, object_id in enumerate(object_ids):
                self.found[object_id, frame] = joined[row : row + 1].cpu()
        return self._advance(frame, object_ids, joined, keep=self.remember)

    def prompted(self, frame: int, object_id: int) -> Float[Tensor, "1 h w"] | None:
        """What ``prompt`` made of an object in this frame."""
        logits = self.given.get((object_id, frame))
        return None if logits is None else self.native(logits)

    def shrink(self, frame: int, max_bytes: int) -> None:
        """Forgets masks of unprompted frames, the farthest from ``frame`` first."""
        if not self.found:
            return
        room = max_bytes // next(iter(self.found.values())).nbytes
        for key in sorted(self.found, key=lambda key: abs(key[1] - frame))[room:]:
            del self.found[key]

    def visited(self, frame: int, object_ids: Sequence[int], reverse: bool) -> None:
        """Goes on from the masks of this frame."""
        self.trail.visited(frame, object_ids)

    def start_sweep(self, frame: int, object_ids: Sequence[int], reverse: bool) -> None:
        """Takes up the boxes that lead to a frame: of its neighbour, else of the nearest known."""
        self.trail.start_sweep(frame + 1 if reverse else frame - 1, object_ids)

    def turn_back(self) -> None:
        """Returns to the boxes that follow the first prompted frames."""
        self.trail.turn_back()

    def forget(self, object_id: int, frame: int | None = None) -> None:
        """Takes back the prompt of one frame, or an object as a whole."""
        for store in (self.given, self.found):
            for key in [k for k in store if k[0] == object_id and frame in (None, k[1])]:
                del store[key]
        self.trail.forget(object_id, frame)

    def _advance(
        self, frame: int, object_ids: Sequence[int], logits: Float[Tensor, "n 1 l l"], *, keep: bool
    ) -> Float[Tensor, "n h w"]:
        """Derives the next box of each object from its mask; returns the native logits."""
        native = self.native(logits)
        for object_id, mask in zip(object_ids, (native > 0).cpu().numpy(), strict=True):
            self.trail.advance(frame, object_id, mask, keep=keep)
        return native

    def _decode(self, encoding: Encoding, ids: Sequence[int]) -> Float[Tensor, "n 1 l l"]:
        device = self.model.device
        if ids[0] not in self.trail:
            side = self.model.image_size // 4
            return torch.full((len(ids), 1, side, side), NO_OBJECT_LOGIT, device=device)
        boxes = np.stack([self.trail.next[object_id] for object_id in ids])
        image_index = torch.zeros(len(ids), dtype=torch.int64, device=device)
        boxes_xyxy = torch.from_numpy(boxes).to(device)
        return self.model.decode(encoding, image_index, boxes_xyxy).mask_logits.float()
