"""From one box per object to masks in every slice: the one propagation loop.

Validation, benchmarks and serving use it alike. Two strategies:

* ``box``: the box of the previous mask prompts the next slice, as with the image predictor. The
  right choice for a model fine-tuned on slices, whose memory has not followed the encoder.
* ``memory``: SAM2's own memory, equal to Meta's ``SAM2VideoPredictor``.

Frames stream through the encoder one at a time, and all objects share an encoding. Each object is
followed forward from its prompted slice, then backward.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from medsam2_ft.errors import UserError
from medsam2_ft.features import Encoding
from medsam2_ft.follow import (
    MARGIN_REFERENCE_SIZE,
    BoxFollower,
    BoxPrompt,
    Follower,
    MemoryFollower,
)
from medsam2_ft.resize import to_input
from medsam2_ft.sam2_adapter import Sam2

__all__ = ["MARGIN_REFERENCE_SIZE", "BoxPrompt", "FrameMasks", "Strategy", "propagate"]

# Encodings of the forward sweep that the backward sweep uses again (objects with different
# prompted slices). About 30 frames at 1024 in float32; beyond it, frames are encoded twice.
ENCODING_CACHE_BYTES: Final = 512 << 20

Strategy = Literal["box", "memory"]


@dataclass(frozen=True, eq=False)
class FrameMasks:
    """Result of one frame in one sweep.

    Attributes:
        frame: Its index.
        object_ids: Objects segmented here, in the order of the prompts.
        logits: Their mask logits at native size, float32, on the model's device.
    """

    frame: int
    object_ids: tuple[int, ...]
    logits: Float[Tensor, "n h w"]


def propagate(
    model: Sam2,
    frames: UInt8[np.ndarray, "t h w"] | UInt8[np.ndarray, "t h w 3"],
    prompts: Sequence[BoxPrompt],
    *,
    strategy: Strategy,
    margin_px: float = 5.0,
    dtype: torch.dtype = torch.float32,
    cancelled: Callable[[], bool] | None = None,
    reset_between_directions: bool = True,
) -> Iterator[FrameMasks]:
    """Follows objects through a volume or video, each from a box on one frame.

    Every frame of an object's range is yielded exactly once for that object: first forward from
    the prompted frames (ascending), then backward (descending). Peak memory does not grow with
    the number of frames.

    Args:
        model: Runs in evaluation mode, whatever mode it is in; that mode is restored.
        frames: Gray or colour slices, 0-255.
        prompts: Objects; without any, nothing is yielded.
        strategy: ``box`` or ``memory``, see the module's text.
        margin_px: ``box`` only: margin around the previous mask's tight box, in pixels of a 1024
            input (scaled to the model's size). An empty mask leaves the last box in place.
        dtype: Autocast type; float32 switches autocast off.
        cancelled: Asked before every frame; when it says True the iteration ends there.
        reset_between_directions: ``memory`` only: whether the sweep backward starts from the
            prompted frame alone (the default) or also attends to what the sweep forward left near
            it, as two ``propagate_in_video`` calls on one state do.

    Returns:
        An iterator over frames.

    Raises:
        UserError: A prompt names a frame outside the volume, a range without its frame, an id
            twice, or a box that is not finite or has no extent inside the image.
    """
    _check_prompts(prompts, len(frames), (int(frames.shape[1]), int(frames.shape[2])))
    return _sweeps(
        model,
        frames,
        prompts,
        BoxFollower(model, frames, margin_px)
        if strategy == "box"
        else MemoryFollower(model, frames, reset_between_directions),
        dtype,
        cancelled,
    )


def _check_prompts(prompts: Sequence[BoxPrompt], count: int, hw: tuple[int, int]) -> None:
    """Refuses prompts that cannot be followed, naming the object."""
    ids = [prompt.object_id for prompt in prompts]
    for prompt in prompts:
        name = f"object {prompt.object_id}"
        first, last = prompt.z_range
        if ids.count(prompt.object_id) > 1:
            raise UserError(f"{name} is prompted more than once; give every prompt its own id.")
        if not 0 <= first <= prompt.frame <= last < count:
            raise UserError(
                f"{name}: frame {prompt.frame} with range {first}-{last} does not lie within "
                f"frames 0-{count - 1}; the range must hold the prompted frame."
            )
        x0, y0, x1, y1 = (float(side) for side in prompt.box_xyxy)
        inside = x0 <= x1 and y0 <= y1 and x1 >= 0 and y1 >= 0 and x0 < hw[1] and y0 < hw[0]
        if not inside or not np.isfinite(prompt.box_xyxy).all():
            raise UserError(
                f"{name}: box {x0:g},{y0:g},{x1:g},{y1:g} (x0,y0,x1,y1) is not a box inside the "
                f"image of {hw[1]} x {hw[0]} pixels."
            )


def _sweeps(
    model: Sam2,
    frames: NDArray[np.uint8],
    prompts: Sequence[BoxPrompt],
    follower: Follower,
    dtype: torch.dtype,
    cancelled: Callable[[], bool] | None,
) -> Iterator[FrameMasks]:
    """Visits the frames forward, then backward, and lets ``follower`` segment each."""
    orders = [_frame_order(prompts, reverse) for reverse in (False, True)]
    encoder = _FrameEncoder(model, frames, reuse=frozenset(orders[0]) & frozenset(orders[1]))
    for reverse, order in zip((False, True), orders, strict=True):
        if reverse:
            follower.turn_back()
        for frame in order:
            if cancelled is not None and cancelled():
                return
            active = [prompt for prompt in prompts if _covers(prompt, frame, reverse)]
            # Entered for each frame: a generator must not leave modes changed at a yield.
            with _inference(model, dtype):
                logits = follower.masks(frame, encoder(frame), active, reverse)
            yield FrameMasks(frame, tuple(prompt.object_id for prompt in active), logits)


def _covers(prompt: BoxPrompt, frame: int, reverse: bool) -> bool:
    """Whether a sweep segments the object in this frame; forward has the prompted frame."""
    first, last = prompt.z_range
    return first <= frame < prompt.frame if reverse else prompt.frame <= frame <= last


def _frame_order(prompts: Sequence[BoxPrompt], reverse: bool) -> list[int]:
    """Frames that a sweep visits, in its order."""
    if reverse:
        spans = [range(prompt.z_range[0], prompt.frame) for prompt in prompts]
    else:
        spans = [range(prompt.frame, prompt.z_range[1] + 1) for prompt in prompts]
    return sorted({frame for span in spans for frame in span}, reverse=reverse)


@contextmanager
def _inference(model: Sam2, dtype: torch.dtype) -> Iterator[None]:
    """No gradients, autocast as asked, dropout off; the training flags come back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    autocast = torch.autocast(model.device.type, dtype=dtype, enabled=dtype != torch.float32)
    try:
        with torch.no_grad(), autocast:
            yield
    finally:
        for module in training:
            module.training = True


class _FrameEncoder:
    """Encodes one frame at a time and keeps what the other sweep needs, up to a byte limit."""

    def __init__(self, model: Sam2, frames: NDArray[np.uint8], reuse: Collection[int]) -> None:
        self.model = model
        self.frames = frames
        self.reuse = reuse
        self.kept: OrderedDict[int, Encoding] = OrderedDict()

    def __call__(self, frame: int) -> Encoding:
        """Returns the features of a frame (``b == 1``)."""
        if frame in self.kept:
            return self.kept.pop(frame)  # the second sweep is the last to need it
        # The copy is one slice; it makes read-only and memory-mapped volumes acceptable to torch.
        image = torch.from_numpy(np.array(self.frames[frame : frame + 1])).to(self.model.device)
        encoding = self.model.encode(to_input(image, self.model.image_size))
        if frame in self.reuse:
            self.kept[frame] = encoding
            while sum(entry.nbytes for entry in self.kept.values()) > ENCODING_CACHE_BYTES:
                self.kept.popitem(last=False)
        return encoding
