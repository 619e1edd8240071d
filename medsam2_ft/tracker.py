"""Interactive segmentation of one volume or video: prompt, look, propagate, correct, again.

The sister of ``propagate`` for a user who looks at each step. It remembers masks and memory of
every frame, so that a prompt on any slice corrects what is there, and a sweep can start anywhere.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from medsam2_ft.errors import UserError
from medsam2_ft.features import Encoding
from medsam2_ft.follow import Follower
from medsam2_ft.follow_box import BoxFollower
from medsam2_ft.follow_memory import MemoryFollower
from medsam2_ft.frame_encoder import RecentEncoder, inference
from medsam2_ft.object_prompts import SlicePrompt, check_slice_prompt
from medsam2_ft.propagate import FrameMasks, Strategy
from medsam2_ft.sam2_adapter import Sam2

DEFAULT_MAX_BYTES: Final = 2 << 30
"""About 2600 frames of one object at 1024 (0.8 MB each), held in main memory."""


class Tracker:
    """A session with one volume. Not for several threads at once.

    Args:
        model: Runs in evaluation mode, whatever mode it is in; that mode is restored.
        frames: Gray or colour slices, 0-255; a view along another axis will do.
        strategy: ``box`` or ``memory``, as in ``propagate``. With ``memory``, every frame that is
            prompted stays a reference for all others.
        margin_px: ``box`` only: margin around a mask's tight box, in pixels of a 1024 input.
        dtype: Autocast type; float32 switches autocast off.
        max_bytes: Limit of what is remembered of frames that were not prompted. Beyond it the
            frames that lie farthest from the one at hand are forgotten: a later prompt there
            starts afresh instead of correcting.
        encoder: Of the same frames, where several trackers share what is encoded; None makes one.
    """

    def __init__(
        self,
        model: Sam2,
        frames: UInt8[np.ndarray, "t h w"] | UInt8[np.ndarray, "t h w 3"],
        *,
        strategy: Strategy,
        margin_px: float = 5.0,
        dtype: torch.dtype = torch.float32,
        max_bytes: int = DEFAULT_MAX_BYTES,
        encoder: RecentEncoder[Encoding] | None = None,
    ) -> None:
        self.model = model
        self.frames = frames
        self.hw = (int(frames.shape[1]), int(frames.shape[2]))
        self.dtype = dtype
        self.max_bytes = max_bytes
        self.prompts: dict[int, dict[int, SlicePrompt]] = {}
        self._encoder = RecentEncoder(model, frames) if encoder is None else encoder
        self._follower: Follower
        if strategy == "box":
            self._follower = BoxFollower(model, self.hw, margin_px, remember=True)
        else:
            self._follower = MemoryFollower(model, self.hw, len(frames), remember=True)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Objects that have a prompt, in the order in which they were first prompted."""
        return tuple(self.prompts)

    def prompt(self, object_id: int, prompt: SlicePrompt) -> Float[Tensor, "h w"]:
        """Segments one slice at once, or corrects its mask.

        Args:
            object_id: A new object or a known one.
            prompt: All that the user says about this object in this slice: it takes the place of
                an earlier prompt there. Where the slice has a mask already, points correct it.

        Returns:
            Native-size logits, float32.

        Raises:
            UserError: The slice is not there, or the prompt does not fit it.
        """
        if not 0 <= prompt.frame < len(self.frames):
            raise UserError(
                f"object {object_id}: slice {prompt.frame} does not lie within "
                f"0-{len(self.frames) - 1}."
            )
        check_slice_prompt(f"object {object_id}", prompt, self.hw)
        with inference(self.model, self.dtype):
            encoding = self._encoder(prompt.frame)
            logits = self._follower.prompt(prompt.frame, encoding, [(object_id, prompt)])
        self.prompts.setdefault(object_id, {})[prompt.frame] = prompt
        return logits[0]

    def clear(self, object_id: int, frame: int | None = None) -> None:
        """Takes back the prompt of one slice, or an object with all its prompts.

        The last prompt of an object takes the object along. What is not there is passed over.
        """
        left = self.prompts.get(object_id, {})
        if frame is not None and set(left) - {frame}:
            self._follower.forget(object_id, frame)
            left.pop(frame, None)
        elif frame is None or frame in left:
            self._follower.forget(object_id)
            self.prompts.pop(object_id, None)

    def propagate(
        self,
        *,
        reverse: bool = False,
        start: int | None = None,
        stop: int | None = None,
        object_ids: Collection[int] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[FrameMasks]:
        """Carries the objects through the volume in one direction.

        Args:
            reverse: Towards slice 0.
            start: First slice; by default the first slice that is prompted for any of the objects.
            stop: Last slice, inclusive; by default the end of the volume in that direction.
            object_ids: Only these objects.
            cancelled: Asked before every frame; when it says True the iteration ends there, and
                what was found stays.

        Yields:
            Every slice from ``start`` to ``stop`` in this order, prompted ones with what the
            prompt gave.

        Raises:
            UserError: No object has a prompt, or start or stop lies outside the volume.
        """
        ids = [i for i in self.prompts if object_ids is None or i in object_ids]
        if not ids:
            raise UserError("nothing to propagate: prompt an object on some slice first.")
        first = min(frame for i in ids for frame in self.prompts[i]) if start is None else start
        last = (0 if reverse else len(self.frames) - 1) if stop is None else stop
        for frame in (first, last):
            if not 0 <= frame < len(self.frames):
                raise UserError(
                    f"slice {frame} does not lie within 0-{len(self.frames) - 1}; "
                    "propagate inside the volume."
                )
        return self._sweep(ids, first, last, reverse, cancelled)

    def _sweep(
        self,
        ids: list[int],
        first: int,
        last: int,
        reverse: bool,
        cancelled: Callable[[], bool] | None,
    ) -> Iterator[FrameMasks]:
        self._follower.start_sweep(first, ids, reverse)
        order = range(first, last - 1, -1) if reverse else range(first, last + 1)
        for frame in order:
            if cancelled is not None and cancelled():
                return
            with inference(self.model, self.dtype):
                logits = self._segment(frame, ids, reverse)
            self._follower.shrink(frame, self.max_bytes)
            yield FrameMasks(frame, tuple(ids), logits)

    def _segment(self, frame: int, ids: list[int], reverse: bool) -> Float[Tensor, "n h w"]:
        prompted = [i for i in ids if frame in self.prompts[i]]
        self._follower.visited(frame, prompted, reverse)
        rows = {i: self._follower.prompted(frame, i) for i in prompted}
        others = [i for i in ids if rows.get(i) is None]
        if others:
            found = self._follower.follow(frame, self._encoder(frame), others, reverse)
            rows |= {object_id: found[i : i + 1] for i, object_id in enumerate(others)}
        return torch.cat([row for i in ids if (row := rows[i]) is not None])
