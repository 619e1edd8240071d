"""The two ways to carry an object from one frame to the next: by box, or by SAM2's memory.

A follower segments the active objects of the frames that ``propagate`` shows it, in the order in
which it shows them, and holds what the next frame needs: a box, or a bounded memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from torch import Tensor

from medsam2_ft.features import Encoding
from medsam2_ft.memory import FrameMemory, MemoryBank, joint_memory
from medsam2_ft.prompts import mask_to_box, pad_box, scale_boxes
from medsam2_ft.resize import logits_to_native
from medsam2_ft.sam2_adapter import Sam2

# Small groups are faster than one large batch: 3 x 4 objects took 0.67 s where 12 took 1.01 s.
OBJECTS_PER_PASS: Final = 4
# Margins are given in pixels of a 1024 input.
MARGIN_REFERENCE_SIZE: Final = 1024


@dataclass(frozen=True, eq=False)
class BoxPrompt:
    """One object to follow.

    Attributes:
        object_id: The caller's name for it, unique within a call.
        frame: Prompted frame.
        box_xyxy: Box in that frame, native pixels; used as it is, without a margin.
        z_range: First and last frame to segment, inclusive, around ``frame``.
    """

    object_id: int
    frame: int
    box_xyxy: NDArray[np.float32]
    z_range: tuple[int, int]


class Follower(ABC):
    """Segments the active objects of a frame, given what it remembers of earlier frames."""

    @abstractmethod
    def masks(
        self, frame: int, encoding: Encoding, active: Sequence[BoxPrompt], reverse: bool
    ) -> Float[Tensor, "n h w"]:
        """Returns native-size logits, one row per active object."""

    @abstractmethod
    def turn_back(self) -> None:
        """Returns to the prompted frames, before the sweep backward."""


class BoxFollower(Follower):
    """Prompts each frame with the box of the previous mask."""

    def __init__(self, model: Sam2, frames: NDArray[np.uint8], margin_px: float) -> None:
        self.model = model
        self.hw = (int(frames.shape[1]), int(frames.shape[2]))
        self.input_hw = (model.image_size, model.image_size)
        self.margin_px = margin_px * model.image_size / MARGIN_REFERENCE_SIZE
        # Next box of each object in input pixels, and the one that follows its prompted frame.
        self.boxes: dict[int, Float32[np.ndarray, " 4"]] = {}
        self.first_boxes: dict[int, Float32[np.ndarray, " 4"]] = {}

    def masks(
        self, frame: int, encoding: Encoding, active: Sequence[BoxPrompt], reverse: bool
    ) -> Float[Tensor, "n h w"]:
        """Returns native-size logits, one row per active object."""
        for prompt in active:
            if prompt.frame == frame:
                self.boxes[prompt.object_id] = self._scaled(prompt.box_xyxy)
        groups = [
            logits_to_native(self._decode(encoding, group), self.hw) for group in _groups(active)
        ]
        logits = torch.cat(groups)
        for prompt, mask in zip(active, (logits > 0).cpu().numpy(), strict=True):
            box = mask_to_box(mask)
            if box is not None:
                self.boxes[prompt.object_id] = pad_box(
                    self._scaled(box), self.margin_px, self.input_hw
                )
            if prompt.frame == frame:
                self.first_boxes[prompt.object_id] = self.boxes[prompt.object_id]
        return logits

    def turn_back(self) -> None:
        """Returns to the boxes that follow the prompted frames."""
        self.boxes = dict(self.first_boxes)

    def _decode(self, encoding: Encoding, group: Sequence[BoxPrompt]) -> Float[Tensor, "n 1 l l"]:
        boxes = np.stack([self.boxes[prompt.object_id] for prompt in group])
        boxes_xyxy = torch.from_numpy(boxes).to(self.model.device)
        image_index = torch.zeros(len(group), dtype=torch.int64, device=self.model.device)
        return self.model.decode(encoding, image_index, boxes_xyxy).mask_logits

    def _scaled(self, box_xyxy: Float32[np.ndarray, " 4"]) -> Float32[np.ndarray, " 4"]:
        """Native pixels to input pixels."""
        scaled: NDArray[np.float32] = scale_boxes(box_xyxy[None], self.hw, self.input_hw)[0]
        return scaled


class MemoryFollower(Follower):
    """Follows objects with SAM2's memory, one bounded bank per object."""

    def __init__(
        self, model: Sam2, frames: NDArray[np.uint8], reset_between_directions: bool
    ) -> None:
        self.model = model
        self.num_frames = len(frames)
        self.hw = (int(frames.shape[1]), int(frames.shape[2]))
        self.reset = reset_between_directions
        self.banks: dict[int, MemoryBank] = {}
        # The same for every frame and object, as long as size and dtype stay.
        self.position: Float[Tensor, "1 c h w"] | None = None

    def masks(
        self, frame: int, encoding: Encoding, active: Sequence[BoxPrompt], reverse: bool
    ) -> Float[Tensor, "n h w"]:
        """Returns native-size logits, one row per active object."""
        # Objects whose memories hold the same frames share a pass.
        by_key = sorted(active, key=self._key)
        rows: dict[int, Float[Tensor, "1 h w"]] = {}
        for _, alike in groupby(by_key, key=self._key):
            for group in _groups(list(alike)):
                logits = self._track(frame, encoding, group, reverse)
                native = logits_to_native(logits, self.hw)
                rows |= {p.object_id: native[i : i + 1] for i, p in enumerate(group)}
        return torch.cat([rows[prompt.object_id] for prompt in active])

    def turn_back(self) -> None:
        """Returns to the prompted frames, and forgets the sweep forward if so asked."""
        for bank in self.banks.values():
            bank.turn_back(reset=self.reset)

    def _key(self, prompt: BoxPrompt) -> tuple[int, ...]:
        bank = self.banks.get(prompt.object_id)
        return bank.key if bank else ()

    def _track(
        self, frame: int, encoding: Encoding, group: Sequence[BoxPrompt], reverse: bool
    ) -> Float[Tensor, "n 1 l l"]:
        """Segments a group that is either prompted here or has equal memory keys."""
        boxes_xyxy = None
        memory = None
        if group[0].frame == frame:
            native = np.stack([prompt.box_xyxy for prompt in group]).astype(np.float32)
            size = self.model.image_size
            boxes_xyxy = torch.from_numpy(scale_boxes(native, self.hw, (size, size)))
            boxes_xyxy = boxes_xyxy.to(self.model.device)
        elif self.position is not None:
            memory = joint_memory([self.banks[p.object_id] for p in group], self.position)
        tracked = self.model.track(
            encoding,
            frame,
            memory,
            boxes_xyxy=boxes_xyxy,
            num_frames=self.num_frames,
            reverse=reverse,
        )
        self.position = tracked.memory_position if self.position is None else self.position
        for row, prompt in enumerate(group):
            rows = slice(row, row + 1)
            entry = FrameMemory(tracked.pointer[rows], tracked.memory_features[rows])
            if boxes_xyxy is not None:
                self.banks[prompt.object_id] = MemoryBank(
                    self.model.memory_reach, frame, entry, keep_around_prompt=not self.reset
                )
            else:
                self.banks[prompt.object_id].add(frame, entry)
        return tracked.mask_logits


def _groups(prompts: Sequence[BoxPrompt]) -> list[Sequence[BoxPrompt]]:
    """Cuts objects into groups that are decoded together."""
    starts = range(0, len(prompts), OBJECTS_PER_PASS)
    return [prompts[start : start + OBJECTS_PER_PASS] for start in starts]
