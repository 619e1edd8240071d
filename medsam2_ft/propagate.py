"""From prompts on some slices to masks in every slice: the one-shot propagation loop.

Validation, benchmarks and batch inference use it; ``tracker`` is its interactive sister. Two
strategies:

* ``box``: the box of the previous mask prompts the next slice, as with the image predictor. The
  right choice for a model fine-tuned on slices, whose memory has not followed the encoder.
* ``memory``: SAM2's own memory, equal to Meta's ``SAM2VideoPredictor``.

Frames stream through the encoder one at a time, and all objects share an encoding. Each object is
followed forward from its first prompted slice, then backward.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from medsam2_ft.box_trail import MARGIN_REFERENCE_SIZE, Fallback
from medsam2_ft.features import Encoding
from medsam2_ft.follow import Follower, Prompted
from medsam2_ft.follow_box import BoxFollower
from medsam2_ft.follow_memory import MemoryFollower
from medsam2_ft.follow_slices import SliceFollower, check_boxes_only
from medsam2_ft.frame_encoder import FrameEncoder, PlannedEncoder, inference
from medsam2_ft.object_prompts import ObjectPrompt, SlicePrompt, check_prompts
from medsam2_ft.sam2_adapter import Sam2
from medsam2_ft.slice_model import SliceModel

__all__ = [
    "MARGIN_REFERENCE_SIZE",
    "FrameMasks",
    "ObjectPrompt",
    "SlicePrompt",
    "Strategy",
    "propagate",
    "propagate_boxes",
]

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
    prompts: Sequence[ObjectPrompt],
    *,
    strategy: Strategy,
    margin_px: float = 5.0,
    dtype: torch.dtype = torch.float32,
    cancelled: Callable[[], bool] | None = None,
    reset_between_directions: bool = True,
    fallback: Fallback = "last",
) -> Iterator[FrameMasks]:
    """Follows objects through a volume or video, each from prompts on one or several frames.

    Every frame of an object's range is yielded exactly once for that object: first forward from
    the first prompted frames (ascending), then backward (descending). Peak memory does not grow
    with the number of frames.

    Args:
        model: Runs in evaluation mode, whatever mode it is in; that mode is restored.
        frames: Gray or colour slices, 0-255; a view along another axis will do.
        prompts: Objects; without any, nothing is yielded.
        strategy: ``box`` or ``memory``, see the module's text. With ``memory`` every frame reads
            all prompted frames, also those that come later.
        margin_px: ``box`` only: margin around the previous mask's tight box, in pixels of a 1024
            input (scaled to the model's size).
        dtype: Autocast type; float32 switches autocast off.
        cancelled: Asked before every frame; when it says True the iteration ends there.
        reset_between_directions: ``memory`` only: whether the sweep backward starts from the
            prompted frames alone (the default) or also attends to what the sweep forward left near
            them, as two ``propagate_in_video`` calls on one state do.
        fallback: ``box`` only: the box that an empty mask leaves for the next frame, the ``last``
            one or the ``first`` that the object was prompted with.

    Returns:
        An iterator over frames.

    Raises:
        UserError: See ``object_prompts.check_prompts``.
    """
    hw = (int(frames.shape[1]), int(frames.shape[2]))
    check_prompts(prompts, len(frames), hw)
    follower: Follower
    if strategy == "box":
        follower = BoxFollower(model, hw, margin_px, fallback=fallback)
    else:
        follower = MemoryFollower(model, hw, len(frames), reset=reset_between_directions)
    encoder = PlannedEncoder(model, frames, _visits(prompts, follower.reads_ahead))
    return _sweeps(model, encoder, prompts, follower, dtype, cancelled)


def propagate_boxes(
    model: SliceModel,
    frames: UInt8[np.ndarray, "t h w"] | UInt8[np.ndarray, "t h w 3"],
    prompts: Sequence[ObjectPrompt],
    *,
    margin_px: float = 5.0,
    dtype: torch.dtype = torch.float32,
    cancelled: Callable[[], bool] | None = None,
    fallback: Fallback = "last",
) -> Iterator[FrameMasks]:
    """Follows objects with a model that knows boxes on single slices only.

    The same loop as ``propagate`` with strategy ``box``, with the same boxes for the same masks.

    Args:
        model: Runs in evaluation mode; its mode is restored.
        frames: Gray or colour slices, 0-255; a view along another axis will do.
        prompts: Objects, boxes only; without any, nothing is yielded.
        margin_px: Margin around the previous mask's tight box, in pixels of a 1024 input, to which
            the frame is stretched.
        dtype: Autocast type; float32 switches autocast off.
        cancelled: Asked before every frame; when it says True the iteration ends there.
        fallback: The box that an empty mask leaves for the next frame, the ``last`` one or the
            ``first`` that the object was prompted with.

    Returns:
        An iterator over frames.

    Raises:
        UserError: Points or masks, and see ``object_prompts.check_prompts``.
    """
    hw = (int(frames.shape[1]), int(frames.shape[2]))
    check_prompts(prompts, len(frames), hw)
    check_boxes_only(prompts, model.name)
    encoder = PlannedEncoder(model, frames, _visits(prompts, ahead=False))
    follower = SliceFollower(model, hw, margin_px, fallback)
    return _sweeps(model, encoder, prompts, follower, dtype, cancelled)


F = TypeVar("F", bound=Encoding | Tensor)
F_contra = TypeVar("F_contra", bound=Encoding | Tensor, contravariant=True)


@runtime_checkable
class _Follower(Protocol[F_contra]):
    """What a one-shot run needs of ``follow.Follower`` and ``follow_slices.SliceFollower``."""

    reads_ahead: bool

    def prompt(
        self, frame: int, encoding: F_contra, group: Sequence[Prompted], /
    ) -> Float[Tensor, "n h w"]: ...

    def follow(
        self, frame: int, encoding: F_contra, object_ids: Sequence[int], reverse: bool, /
    ) -> Float[Tensor, "n h w"]: ...

    def prompted(self, frame: int, object_id: int, /) -> Float[Tensor, "1 h w"] | None: ...

    def visited(self, frame: int, object_ids: Sequence[int], reverse: bool, /) -> None: ...

    def turn_back(self) -> None: ...


def _sweeps(
    model: nn.Module,
    encoder: FrameEncoder[F],
    prompts: Sequence[ObjectPrompt],
    follower: _Follower[F],
    dtype: torch.dtype,
    cancelled: Callable[[], bool] | None,
) -> Iterator[FrameMasks]:
    """Visits the frames forward, then backward, and lets ``follower`` segment each."""
    ahead = _frames_ahead(prompts) if follower.reads_ahead else []
    for frame in ahead:
        if cancelled is not None and cancelled():
            return
        # The others are prompted when their first frame comes: then it is encoded only once.
        group = [entry for entry in _prompts_of(prompts, frame) if len(entry[0].slices) > 1]
        with inference(model, dtype):
            follower.prompt(frame, encoder(frame), [(p.object_id, part) for p, part in group])
    for reverse in (False, True):
        if reverse:
            follower.turn_back()
        for frame in _frame_order(prompts, reverse):
            if cancelled is not None and cancelled():
                return
            active = [prompt for prompt in prompts if _covers(prompt, frame, reverse)]
            with inference(model, dtype):
                logits = _segment(follower, frame, encoder, active, reverse)
            yield FrameMasks(frame, tuple(prompt.object_id for prompt in active), logits)


def _segment(
    follower: _Follower[F],
    frame: int,
    encoder: FrameEncoder[F],
    active: Sequence[ObjectPrompt],
    reverse: bool,
) -> Float[Tensor, "n h w"]:
    """Native logits of the active objects: prompted now, prompted ahead, or followed."""
    encoding = encoder(frame)
    rows: dict[int, Float[Tensor, "1 h w"]] = {}
    new: list[tuple[int, SlicePrompt]] = []
    other: list[int] = []
    for prompt in active:
        known = follower.prompted(frame, prompt.object_id)
        if known is not None:
            rows[prompt.object_id] = known
        elif frame in prompt.frames:
            new += [(prompt.object_id, part) for part in prompt.slices if part.frame == frame]
        else:
            other.append(prompt.object_id)
    follower.visited(frame, list(rows), reverse)
    if new:
        logits = follower.prompt(frame, encoding, new)
        rows |= {object_id: logits[i : i + 1] for i, (object_id, _) in enumerate(new)}
    if other:
        logits = follower.follow(frame, encoding, other, reverse)
        rows |= {object_id: logits[i : i + 1] for i, object_id in enumerate(other)}
    return torch.cat([rows[prompt.object_id] for prompt in active])


def _prompts_of(
    prompts: Sequence[ObjectPrompt], frame: int
) -> Iterator[tuple[ObjectPrompt, SlicePrompt]]:
    for prompt in prompts:
        for part in prompt.slices:
            if part.frame == frame:
                yield prompt, part


def _visits(prompts: Sequence[ObjectPrompt], ahead: bool) -> list[int]:
    """Every frame as often as its features will be asked for."""
    first = _frames_ahead(prompts) if ahead else []
    return [*first, *_frame_order(prompts, reverse=False), *_frame_order(prompts, reverse=True)]


def _frames_ahead(prompts: Sequence[ObjectPrompt]) -> list[int]:
    """Prompted frames of objects that are prompted on several."""
    return sorted({frame for p in prompts if len(p.slices) > 1 for frame in p.frames})


def _covers(prompt: ObjectPrompt, frame: int, reverse: bool) -> bool:
    """Whether a sweep segments the object in this frame; forward has the first prompted one."""
    first, last = prompt.z_range
    return first <= frame < prompt.frame if reverse else prompt.frame <= frame <= last


def _frame_order(prompts: Sequence[ObjectPrompt], reverse: bool) -> list[int]:
    """Frames that a sweep visits, in its order."""
    if reverse:
        spans = [range(prompt.z_range[0], prompt.frame) for prompt in prompts]
    else:
        spans = [range(prompt.frame, prompt.z_range[1] + 1) for prompt in prompts]
    return sorted({frame for span in spans for frame in span}, reverse=reverse)
