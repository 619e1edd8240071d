"""What a session needs of a model, and the two that have it: SAM2, and one that fills boxes."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medsam2_ft.features import Encoding
from medsam2_ft.frame_encoder import RecentEncoder, inference
from medsam2_ft.object_prompts import SlicePrompt, check_slice_prompt
from medsam2_ft.propagate import FrameMasks, Strategy
from medsam2_ft.sam2_adapter import Sam2
from medsam2_ft.tracker import Tracker

Cancelled = Callable[[], bool]

FEATURE_BYTES: Final = 256 << 20
"""What one axis of one session keeps encoded: about 15 slices at 1024 in float32."""
MEMORY_BYTES: Final = 512 << 20
"""What one axis of one session remembers of slices that were not prompted."""


@runtime_checkable
class Following(Protocol):
    """The part of ``tracker.Tracker`` that a session uses."""

    def prompt(self, object_id: int, prompt: SlicePrompt, /) -> Float[Tensor, "h w"]:
        """Segments one slice, or corrects its mask; native logits."""

    def propagate(
        self,
        *,
        reverse: bool,
        start: int,
        stop: int,
        object_ids: Collection[int],
        cancelled: Cancelled,
    ) -> Iterator[FrameMasks]:
        """Carries objects through the volume in one direction."""


@runtime_checkable
class Axis(Protocol):
    """One axis of one session's volume."""

    def encode(self, index: int, /) -> None:
        """Encodes a slice ahead of its prompt."""

    def follow(self, strategy: Strategy, /) -> Following:
        """Returns a tracker that knows no prompt yet."""


@runtime_checkable
class Backend(Protocol):
    """A model that sessions can use."""

    strategies: Sequence[Strategy]
    strategy: Strategy

    def axis(self, frames: NDArray[np.uint8], /) -> Axis:
        """Opens the slices along one axis."""


class Sam2Backend:
    """A SAM2 that sessions share.

    Args:
        model: Loaded once.
        strategy: Where a session does not choose.
        dtype: Autocast type; float32 switches autocast off.
    """

    strategies: Sequence[Strategy] = ("box", "memory")

    def __init__(self, model: Sam2, strategy: Strategy, dtype: torch.dtype) -> None:
        self.model = model
        self.strategy: Strategy = strategy
        self.dtype = dtype

    def axis(self, frames: NDArray[np.uint8]) -> Axis:
        """Opens the slices along one axis."""
        return _Sam2Axis(self, frames)


class _Sam2Axis:
    """All trackers of one axis share what is encoded."""

    def __init__(self, backend: Sam2Backend, frames: NDArray[np.uint8]) -> None:
        self.backend = backend
        self.frames = frames
        self.encoder: RecentEncoder[Encoding] = RecentEncoder(backend.model, frames, FEATURE_BYTES)

    def encode(self, index: int) -> None:
        with inference(self.backend.model, self.backend.dtype):
            self.encoder(index)

    def follow(self, strategy: Strategy) -> Following:
        return Tracker(
            self.backend.model,
            self.frames,
            strategy=strategy,
            dtype=self.backend.dtype,
            max_bytes=MEMORY_BYTES,
            encoder=self.encoder,
        )


class FakeBackend:
    """Fills boxes, for tests of everything around the model.

    A box gives itself, a mask itself, a positive point a square of three pixels that is added and
    a negative one that is cut out. A propagated slice has what the slice before it has.
    """

    strategies: Sequence[Strategy] = ("box", "memory")
    strategy: Strategy = "box"

    def __init__(self, on_frame: Callable[[int], None] | None = None) -> None:
        self.on_frame = on_frame

    def axis(self, frames: NDArray[np.uint8]) -> Axis:
        """Opens the slices along one axis."""
        return _FakeAxis(frames, self.on_frame)


class _FakeAxis:
    def __init__(self, frames: NDArray[np.uint8], on_frame: Callable[[int], None] | None) -> None:
        self.frames = frames
        self.on_frame = on_frame

    def encode(self, index: int) -> None:
        if self.on_frame is not None:
            self.on_frame(index)

    def follow(self, strategy: Strategy) -> Following:
        return _FakeTracker(self)


class _FakeTracker:
    def __init__(self, axis: _FakeAxis) -> None:
        self.axis = axis
        self.hw = (int(axis.frames.shape[1]), int(axis.frames.shape[2]))
        self.known: dict[tuple[int, int], NDArray[np.bool_]] = {}
        self.prompted: set[tuple[int, int]] = set()

    def prompt(self, object_id: int, prompt: SlicePrompt) -> Float[Tensor, "h w"]:
        check_slice_prompt(f"object {object_id}", prompt, self.hw)
        self.axis.encode(prompt.frame)
        mask = self.known.get((object_id, prompt.frame), np.zeros(self.hw, np.bool_)).copy()
        if prompt.mask is not None:
            mask = prompt.mask.copy()
        if prompt.box_xyxy is not None:
            x0, y0, x1, y1 = (max(0, int(side)) for side in prompt.box_xyxy)
            mask[:] = False
            mask[y0 : y1 + 1, x0 : x1 + 1] = True
        for (x, y), label in zip(
            prompt.points_xy.astype(int).tolist(), prompt.point_labels.tolist(), strict=True
        ):
            mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = bool(label)
        self.known[object_id, prompt.frame] = mask
        self.prompted.add((object_id, prompt.frame))
        return _logits(mask)

    def propagate(
        self,
        *,
        reverse: bool,
        start: int,
        stop: int,
        object_ids: Collection[int],
        cancelled: Cancelled,
    ) -> Iterator[FrameMasks]:
        for frame in range(start, stop - 1, -1) if reverse else range(start, stop + 1):
            if cancelled():
                return
            self.axis.encode(frame)
            before = frame + 1 if reverse else frame - 1
            for object_id in object_ids:
                if (object_id, frame) not in self.prompted:
                    empty = np.zeros(self.hw, np.bool_)
                    self.known[object_id, frame] = self.known.get((object_id, before), empty)
            rows = [_logits(self.known[object_id, frame]) for object_id in object_ids]
            yield FrameMasks(frame, tuple(object_ids), torch.stack(rows))


def _logits(mask: NDArray[np.bool_]) -> Float[Tensor, "h w"]:
    return torch.from_numpy(np.where(mask, 1.0, -1.0).astype(np.float32))
