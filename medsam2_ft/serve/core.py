"""One user's segmentation of one volume: prompts, masks, undo, propagation. Numpy in and out.

Knows nothing of the web. Not for several threads at once: the caller holds ``lock`` around each
call, and around each step of ``propagate``.
"""

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medsam2_ft.errors import UserError
from medsam2_ft.object_prompts import SlicePrompt
from medsam2_ft.propagate import Strategy
from medsam2_ft.serve.backend import Axis, Backend, Cancelled, Following
from medsam2_ft.serve.history import MaskHistory, Region, Said, Step
from medsam2_ft.volume_prompts import frames_along

Direction = Literal["forward", "backward", "both"]


@dataclass(frozen=True, eq=False)
class Frame:
    """A slice that a propagation has passed.

    Attributes:
        index: Of the slice.
        regions: What changed there.
        done: Slices passed, this one included.
        total: Slices of the whole propagation.
    """

    index: int
    regions: tuple[Region, ...]
    done: int
    total: int


class SegmentationSession:
    """Segments one image, volume or video interactively.

    Args:
        backend: The model, shared with other sessions.
        image: uint8 ``(z, y, x)`` or ``(z, y, x, 3)``.
        strategy: ``box`` or ``memory``; None is the model's own, and ``box`` for a single slice.
        max_objects: Limit of objects.

    Attributes:
        lock: To be held around every call by callers with several threads.
        history: The masks, and how they came about.
    """

    def __init__(
        self,
        backend: Backend,
        image: NDArray[np.uint8],
        *,
        strategy: Strategy | None = None,
        max_objects: int = 64,
    ) -> None:
        self.backend = backend
        self.image = image
        self.shape: tuple[int, int, int] = (image.shape[0], image.shape[1], image.shape[2])
        own: Strategy = backend.strategy if self.shape[0] > 1 else "box"
        self.strategy: Strategy = strategy or own
        self.max_objects = max_objects
        self.lock = threading.RLock()
        self.history = MaskHistory(self.shape)
        self._said: tuple[Said, ...] = ()
        self._axes: dict[int, Axis] = {}
        self._trackers: dict[tuple[int, Strategy], Following] = {}

    @property
    def objects(self) -> tuple[int, ...]:
        """Ids of objects that have a prompt or a voxel, ascending."""
        prompted = {said.object_id for said in self._said}
        drawn = {object_id for object_id, mask in self.history.masks.items() if mask.any()}
        return tuple(sorted(prompted | drawn))

    @property
    def prompted(self) -> tuple[tuple[int, int, int], ...]:
        """Object, axis and slice of each prompt that is there, in their first order."""
        return tuple(dict.fromkeys(said.key for said in self._said))

    @property
    def said(self) -> tuple[Said, ...]:
        """All prompts, in their order."""
        return self._said

    def take_over(self, other: "SegmentationSession") -> None:
        """Goes on from another session's prompts, masks and history, of an image equally large.

        Raises:
            UserError: The images are not equally large.
        """
        if other.shape != self.shape:
            raise UserError(f"the image is now {self.shape} and was {other.shape}: open it anew.")
        self.history = other.history
        self._said = other.said

    def mask(self, object_id: int) -> NDArray[np.bool_]:
        """Returns a view of an object's mask ``(z, y, x)``; empty for one that is not known."""
        return self.history.masks.get(object_id, np.zeros(self.shape, np.bool_))

    def check_slice(self, axis: int, index: int) -> None:
        """Refuses a slice that is not there.

        Raises:
            UserError: See above.
        """
        if axis not in (0, 1, 2) or not 0 <= index < self.shape[axis]:
            most = self.shape[axis] - 1 if axis in (0, 1, 2) else "?"
            raise UserError(f"slice {index} of axis {axis} does not lie within 0-{most}.")

    def encode(self, axis: int, index: int) -> None:
        """Encodes a slice ahead of its prompt.

        Raises:
            UserError: There is no such slice.
        """
        self.check_slice(axis, index)
        self._axis(axis).encode(index)

    def prompt(self, object_id: int, axis: int, prompt: SlicePrompt) -> list[Region]:
        """Segments or corrects one slice, see ``Tracker.prompt``.

        Returns:
            What changed, one region at most.

        Raises:
            UserError: There is no such slice, the prompt does not fit it, or too many objects.
        """
        self.check_slice(axis, prompt.frame)
        if object_id not in self.objects and len(self.objects) >= self.max_objects:
            raise UserError(f"{self.max_objects} objects are the limit; remove one first.")
        step = Step(self._said)
        try:
            if prompt.box_xyxy is None and prompt.mask is None:
                self._say_what_was_drawn(object_id, axis, prompt.frame)
            logits = self._say(Said(object_id, axis, prompt))
        except Exception:
            if self._said != step.said_before:
                self._forget(step.said_before)
            raise
        regions = self._write(object_id, axis, prompt.frame, (logits > 0).cpu().numpy(), step)
        self.history.close(step, self._said)
        return regions

    def edit(self, edits: Sequence[Region]) -> list[Region]:
        """Takes over what the user drew by hand; one step of undo. Prompts stay as they are.

        Points that are given later on such a slice correct what was drawn there.

        Returns:
            What changed.

        Raises:
            UserError: A region that does not lie in the volume, or too many objects.
        """
        new = {edit.object_id for edit in edits} - set(self.objects)
        if len(self.objects) + len(new) > self.max_objects:
            raise UserError(f"{self.max_objects} objects are the limit; remove one first.")
        step = Step(self._said)
        regions = self.history.draw(edits, step)
        self.history.close(step, self._said)
        return regions

    def remove_prompt(self, object_id: int, axis: int, index: int) -> list[Region]:
        """Takes back what was said about a slice, and the mask of that slice.

        Raises:
            UserError: Nothing was said about it.
        """
        left = tuple(said for said in self._said if said.key != (object_id, axis, index))
        if len(left) == len(self._said):
            raise UserError(f"object {object_id} has no prompt on slice {index} of axis {axis}.")
        step = Step(self._said)
        self._forget(left)
        empty = np.zeros(frames_along(self.mask(object_id), axis)[index].shape, np.bool_)
        regions = self._write(object_id, axis, index, empty, step)
        self.history.close(step, self._said)
        return regions

    def remove_object(self, object_id: int) -> list[Region]:
        """Removes an object with its prompts and its mask.

        Raises:
            UserError: There is no such object.
        """
        if object_id not in self.objects:
            raise UserError(f"there is no object {object_id}.")
        step = Step(self._said)
        self._forget(tuple(said for said in self._said if said.object_id != object_id))
        empty = np.zeros(self.shape, np.bool_)
        regions = self.history.replace(object_id, (slice(None),) * 3, empty, step)
        self.history.close(step, self._said)
        return regions

    def undo(self) -> list[Region]:
        """Takes the last step back.

        Raises:
            UserError: There is none.
        """
        step, regions = self.history.undo()
        self._forget(step.said_before)
        return regions

    def redo(self) -> list[Region]:
        """Does again what ``undo`` took back.

        Raises:
            UserError: There is nothing.
        """
        step, regions = self.history.redo()
        self._forget(step.said_after)
        return regions

    def propagate(
        self,
        *,
        axis: int = 0,
        objects: Collection[int] | None = None,
        start: int | None = None,
        slices: tuple[int, int] | None = None,
        direction: Direction = "both",
        strategy: Strategy | None = None,
        cancelled: Cancelled = lambda: False,
    ) -> Iterator[Frame]:
        """Carries objects through the volume; all of it is one step of undo, also if cancelled.

        Args:
            axis: Axis along which; only prompts on its slices count.
            objects: None for all that have a prompt there.
            start: Slice to start from; None is the first prompted one within ``slices``.
            slices: First and last slice, inclusive; None is all.
            direction: ``forward`` is the rising index; ``both`` is first forward, then backward.
            strategy: None is the session's.
            cancelled: Asked before every slice; once it says True the iteration ends.

        Returns:
            The slices as they are passed.

        Raises:
            UserError: Nothing is prompted there, or a slice that does not lie in the volume.
        """
        first, last = slices or (0, self.shape[axis] - 1 if axis in (0, 1, 2) else 0)
        self.check_slice(axis, first)
        self.check_slice(axis, last)
        keys = [key for key in self.prompted if key[1] == axis]
        ids = tuple(dict.fromkeys(key[0] for key in keys if objects is None or key[0] in objects))
        missing = sorted(set(objects or ()) - set(ids))
        if missing or not ids:
            what = f"object {missing[0]} has" if missing else "there is"
            raise UserError(f"{what} no prompt on a slice of axis {axis}: give one first.")
        inside = [key[2] for key in keys if key[0] in ids and first <= key[2] <= last]
        if start is None and not inside:
            raise UserError(f"no prompt lies within slices {first}-{last}: widen the range.")
        begin = min(inside) if start is None else start
        if not first <= begin <= last:
            raise UserError(f"slice {begin} does not lie within slices {first}-{last}.")
        sweeps = [(begin, last, False), (begin, first, True)]
        chosen = {"forward": sweeps[:1], "backward": sweeps[1:], "both": sweeps}[direction]
        return self._propagate(axis, ids, chosen, strategy or self.strategy, cancelled)

    def _propagate(
        self,
        axis: int,
        ids: Sequence[int],
        sweeps: Sequence[tuple[int, int, bool]],
        strategy: Strategy,
        cancelled: Cancelled,
    ) -> Iterator[Frame]:
        step = Step(self._said)
        total = sum(abs(stop - start) + 1 for start, stop, _ in sweeps)
        done = 0
        tracker = self._tracker(axis, strategy)
        try:
            for start, stop, reverse in sweeps:
                for found in tracker.propagate(
                    reverse=reverse, start=start, stop=stop, object_ids=ids, cancelled=cancelled
                ):
                    masks = (found.logits > 0).cpu().numpy()
                    regions: list[Region] = []
                    for object_id, mask in zip(found.object_ids, masks, strict=True):
                        regions += self._write(object_id, axis, found.frame, mask, step)
                    done += 1
                    yield Frame(found.frame, tuple(regions), done, total)
        finally:
            self.history.close(step, self._said)

    def _say(self, said: Said) -> Float[Tensor, "h w"]:
        """Tells all trackers of an axis; returns what that of the session's strategy answers."""
        logits = self._tracker(said.axis, self.strategy).prompt(said.object_id, said.prompt)
        for (axis, strategy), tracker in self._trackers.items():
            if axis == said.axis and strategy != self.strategy:
                tracker.prompt(said.object_id, said.prompt)
        self._said = (*self._said, said)
        return logits

    def _say_what_was_drawn(self, object_id: int, axis: int, index: int) -> None:
        """Tells the model a slice's mask where the user drew in it: points then correct that."""
        drawn = frames_along(self.mask(object_id), axis)[index]
        if drawn.any() and frames_along(self.history.drawn(object_id), axis)[index].any():
            self._say(Said(object_id, axis, SlicePrompt(index, mask=drawn.copy())))

    def _axis(self, axis: int) -> Axis:
        if axis not in self._axes:
            self._axes[axis] = self.backend.axis(frames_along(self.image, axis))
        return self._axes[axis]

    def _tracker(self, axis: int, strategy: Strategy) -> Following:
        """The tracker of an axis; a new one hears all that was said so far."""
        if (axis, strategy) not in self._trackers:
            tracker = self._axis(axis).follow(strategy)
            for said in self._said:
                if said.axis == axis:
                    tracker.prompt(said.object_id, said.prompt)
            self._trackers[axis, strategy] = tracker
        return self._trackers[axis, strategy]

    def _forget(self, said: tuple[Said, ...]) -> None:
        """Goes back to other prompts; trackers hear them when they are needed."""
        self._said = said
        self._trackers.clear()

    def _write(
        self, object_id: int, axis: int, index: int, mask: NDArray[np.bool_], step: Step
    ) -> list[Region]:
        box = tuple(slice(index, index + 1) if a == axis else slice(None) for a in range(3))
        return self.history.replace(object_id, box, np.expand_dims(mask, axis), step)
