"""The bounded memory of one tracked object, in the layout that SAM2's tracking step reads.

Pure bookkeeping over tensors: which frames are kept, and for how long.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FrameMemory:
    """What one frame leaves behind for one object.

    Attributes:
        pointer: Object pointer.
        features: Spatial memory, or None once the frame is too far away to be attended to.
    """

    pointer: Float[Tensor, "1 d"]
    features: Float[Tensor, "1 c h w"] | None


@dataclass(frozen=True)
class MemoryReach:
    """How far back the model looks, in frames.

    Attributes:
        features: Frames whose spatial memory is attended to.
        pointers: Frames whose object pointers are attended to.
    """

    features: int
    pointers: int


@dataclass
class MemoryBank:
    """Memory of one object that was prompted in one frame.

    Its size is bounded by the model's reach, whatever the number of frames that are added.

    Attributes:
        reach: How far back the model looks.
        prompted: The prompted frame.
        prompt_memory: Memory of the prompted frame, which is always attended to.
        keep_around_prompt: Also keeps what lies within reach of the prompted frame. Needed where
            a sweep backward reads what the sweep forward left.
        frames: Memory of the other frames by index.
    """

    reach: MemoryReach
    prompted: int
    prompt_memory: FrameMemory
    keep_around_prompt: bool = False
    frames: dict[int, FrameMemory] = field(default_factory=dict)

    def add(self, frame: int, memory: FrameMemory) -> None:
        """Stores a frame and drops what no later frame of the same sweep can reach."""
        self.frames[frame] = memory
        kept = {}
        for index, entry in self.frames.items():
            # Read next from one frame further on.
            distance = self._distance(index, frame) + 1
            if distance <= self.reach.features:
                kept[index] = entry
            elif distance <= self.reach.pointers:
                kept[index] = replace(entry, features=None)
        self.frames = kept

    def turn_back(self, *, reset: bool) -> None:
        """Prepares for the sweep in the other direction.

        Args:
            reset: Forgets every frame but the prompted one; else what lies near it stays.
        """
        self.keep_around_prompt = False
        if reset:
            self.frames = {}

    def _distance(self, index: int, current: int) -> int:
        """Frames between an entry and where a sweep is, or will start again."""
        distance = abs(current - index)
        if self.keep_around_prompt:
            distance = min(distance, abs(self.prompted - index))
        return distance

    @property
    def key(self) -> tuple[int, ...]:
        """Frames that are held, the prompted one first; equal keys can share a step."""
        return (self.prompted, *sorted(self.frames))


def joint_memory(
    banks: Sequence[MemoryBank], position: Float[Tensor, "1 c h w"]
) -> dict[str, dict[int, dict[str, Any]]]:
    """Batches the memories of several objects into Meta's ``output_dict``.

    Args:
        banks: At least one bank; all have the same ``key``.
        position: Position encoding of the spatial memory, the same for every frame.

    Returns:
        ``cond_frame_outputs`` and ``non_cond_frame_outputs`` by frame; each entry holds
        ``maskmem_features``, ``maskmem_pos_enc`` and ``obj_ptr`` with one row per bank.
    """

    def joined(entries: Sequence[FrameMemory]) -> dict[str, Any]:
        features = [entry.features for entry in entries if entry.features is not None]
        return {
            "maskmem_features": torch.cat(features) if features else None,
            "maskmem_pos_enc": [position.expand(len(entries), -1, -1, -1)],
            "obj_ptr": torch.cat([entry.pointer for entry in entries]),
        }

    first = banks[0]
    return {
        "cond_frame_outputs": {first.prompted: joined([bank.prompt_memory for bank in banks])},
        "non_cond_frame_outputs": {
            frame: joined([bank.frames[frame] for bank in banks]) for frame in first.frames
        },
    }
