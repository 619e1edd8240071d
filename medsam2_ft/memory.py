"""The memory of one tracked object, in the layout that SAM2's tracking step reads.

Pure bookkeeping over tensors: which frames are kept, and for how long. Of a one-shot run the bank
keeps what later frames can reach; of an interactive session every frame, until the session's limit.
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
        mask_logits: The mask, where a later prompt may correct it.
    """

    pointer: Float[Tensor, "1 d"]
    features: Float[Tensor, "1 c h w"] | None
    mask_logits: Float[Tensor, "1 1 l l"] | None = None

    @property
    def nbytes(self) -> int:
        """Memory that it takes, without the pointer."""
        return sum(part.nbytes for part in (self.features, self.mask_logits) if part is not None)


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
    """Memory of one object.

    Attributes:
        reach: How far back the model looks.
        bounded: Drops what no later frame of the same sweep can reach, so that the size does not
            depend on the number of frames.
        keep_around_start: With ``bounded``: also keeps what lies within reach of the first
            prompted frame, where a sweep backward reads what the sweep forward left.
        prompted: Memory of the frames that a user has prompted; always attended to.
        pending: Prompts since the last sweep, which the next one will read.
        frames: Memory of the other frames by index.
        tracked: Frames that sweeps have visited, with their direction (True: backward); only
            without ``bounded``.
    """

    reach: MemoryReach
    bounded: bool = True
    keep_around_start: bool = False
    prompted: dict[int, FrameMemory] = field(default_factory=dict)
    pending: dict[int, FrameMemory] = field(default_factory=dict)
    frames: dict[int, FrameMemory] = field(default_factory=dict)
    tracked: dict[int, bool] = field(default_factory=dict)

    def add(self, frame: int, memory: FrameMemory) -> None:
        """Stores a frame that was not prompted."""
        self.frames[frame] = memory
        if self.bounded:
            self.frames = dict(self._reachable(frame))

    def commit(self) -> None:
        """Lets sweeps read the pending prompts."""
        self.prompted |= self.pending
        self.pending = {}
        for frame in self.prompted:
            self.frames.pop(frame, None)

    def latest(self, frame: int) -> FrameMemory | None:
        """What is known of a frame, the newest first."""
        for entries in (self.pending, self.prompted, self.frames):
            if frame in entries:
                return entries[frame]
        return None

    def forget(self, frame: int) -> None:
        """Takes back the prompt of a frame; its mask stays as that of any other frame."""
        self.pending.pop(frame, None)
        entry = self.prompted.pop(frame, None)
        if entry is not None:
            self.frames[frame] = entry
            self.tracked.pop(frame, None)

    def turn_back(self, *, reset: bool) -> None:
        """Prepares for the sweep in the other direction.

        Args:
            reset: Forgets every frame but the prompted ones; else what lies near stays.
        """
        self.keep_around_start = False
        if reset:
            self.frames = {}

    @property
    def start(self) -> int:
        """The first prompted frame."""
        return min((*self.prompted, *self.pending))

    @property
    def key(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Prompted frames and others that are held; equal keys can share a step."""
        return tuple(sorted(self.prompted)), tuple(sorted(self.frames))

    @property
    def nbytes(self) -> int:
        """Memory that all frames take together."""
        parts = (self.prompted, self.pending, self.frames)
        return sum(entry.nbytes for entries in parts for entry in entries.values())

    def drop_farthest(self, frame: int) -> bool:
        """Drops the tensors of the frame that lies farthest away; False where there is none."""
        heavy = [index for index, entry in self.frames.items() if entry.nbytes]
        if not heavy:
            return False
        farthest = max(heavy, key=lambda index: abs(index - frame))
        del self.frames[farthest]
        return True

    def _reachable(self, current: int) -> list[tuple[int, FrameMemory]]:
        kept = []
        for index, entry in self.frames.items():
            distance = abs(current - index)
            if self.keep_around_start:
                distance = min(distance, abs(self.start - index))
            # Read next from one frame further on.
            if distance + 1 <= self.reach.features:
                kept.append((index, entry))
            elif distance + 1 <= self.reach.pointers:
                kept.append((index, replace(entry, features=None)))
        return kept


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
        "cond_frame_outputs": {
            frame: joined([bank.prompted[frame] for bank in banks]) for frame in first.prompted
        },
        "non_cond_frame_outputs": {
            frame: joined([bank.frames[frame] for bank in banks]) for frame in first.frames
        },
    }
