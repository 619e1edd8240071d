"""The masks of a session, and how to take their changes back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.object_prompts import SlicePrompt
from medsam2_ft.serve.wire import changed_box, pack_mask, unpack_mask

UNDO_STEPS: Final = 50


@dataclass(frozen=True, eq=False)
class Said:
    """One prompt, as it was given.

    Attributes:
        object_id: The object.
        axis: Axis of ``(z, y, x)`` whose slice was prompted.
        prompt: What was said; its ``frame`` is the slice.
    """

    object_id: int
    axis: int
    prompt: SlicePrompt

    @property
    def key(self) -> tuple[int, int, int]:
        """Object, axis and slice."""
        return self.object_id, self.axis, self.prompt.frame


@dataclass(frozen=True, eq=False)
class Region:
    """What an object's mask now is within a box.

    Attributes:
        object_id: The object.
        offset: First voxel of the box, ``(z, y, x)``.
        mask: bool ``(z, y, x)``.
    """

    object_id: int
    offset: tuple[int, int, int]
    mask: NDArray[np.bool_]

    def box(self, shape: Sequence[int]) -> tuple[slice, ...]:
        """Where it lies in a volume of this shape.

        Raises:
            UserError: Not within the volume.
        """
        ends = [first + side for first, side in zip(self.offset, self.mask.shape, strict=True)]
        if min(self.offset) < 0 or any(end > side for end, side in zip(ends, shape, strict=True)):
            raise UserError(f"a region at {self.offset} does not lie within {tuple(shape)}.")
        return tuple(slice(*ends_of) for ends_of in zip(self.offset, ends, strict=True))


@dataclass(frozen=True, eq=False)
class Patch:
    """A box of one object before and after, packed."""

    object_id: int
    box: tuple[slice, ...]
    before: bytes
    after: bytes


@dataclass(eq=False)
class Step:
    """What undo takes back at once."""

    said_before: tuple[Said, ...]
    said_after: tuple[Said, ...] = ()
    patches: list[Patch] = field(default_factory=list)


class MaskHistory:
    """Masks by object; every change of them belongs to a step, which can be taken back.

    Args:
        shape: Of the masks, ``(z, y, x)``.

    Attributes:
        masks: bool ``(z, y, x)`` by object.
        revision: Counts steps, those that were taken back and done again, too.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.masks: dict[int, NDArray[np.bool_]] = {}
        self.revision = 0
        self._drawn: dict[int, NDArray[np.bool_]] = {}
        self._undo: list[Step] = []
        self._redo: list[Step] = []

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """Whether a step was taken back."""
        return bool(self._redo)

    def replace(
        self, object_id: int, box: tuple[slice, ...], mask: NDArray[np.bool_], step: Step
    ) -> list[Region]:
        """Puts a mask into a box; the part that changed is noted in the step and returned."""
        if object_id not in self.masks:
            self.masks[object_id] = np.zeros(self.shape, np.bool_)
        held = self.masks[object_id][box]
        inner = changed_box(held, mask)
        if inner is None:
            return []
        offset = [(outer.start or 0) + part.start for outer, part in zip(box, inner, strict=True)]
        before, after = held[inner], mask[inner]
        whole = tuple(
            slice(first, first + side) for first, side in zip(offset, after.shape, strict=True)
        )
        step.patches.append(Patch(object_id, whole, pack_mask(before), pack_mask(after)))
        held[inner] = after
        return [Region(object_id, (offset[0], offset[1], offset[2]), after.copy())]

    def draw(self, edits: Sequence[Region], step: Step) -> list[Region]:
        """Takes over masks that a user drew; returns what changed.

        Raises:
            UserError: A region does not lie within the volume; nothing has changed then.
        """
        boxes = [edit.box(self.shape) for edit in edits]
        changed: list[Region] = []
        for edit, box in zip(edits, boxes, strict=True):
            changed += self.replace(edit.object_id, box, edit.mask, step)
        for region in changed:
            drawn = self._drawn.setdefault(region.object_id, np.zeros(self.shape, np.bool_))
            drawn[region.box(self.shape)] = True
        return changed

    def drawn(self, object_id: int) -> NDArray[np.bool_]:
        """Where the user ever drew an object, ``(z, y, x)``; also where that was taken back."""
        return self._drawn.get(object_id, np.zeros(self.shape, np.bool_))

    def close(self, step: Step, said: tuple[Said, ...]) -> None:
        """Makes a step undoable, where it changed anything.

        Args:
            step: Its patches are complete.
            said: All prompts, as they are now.
        """
        step.said_after = said
        if step.patches or step.said_after != step.said_before:
            self._undo = [*self._undo, step][-UNDO_STEPS:]
            self._redo.clear()
            self.revision += 1

    def undo(self) -> tuple[Step, list[Region]]:
        """Takes the last step back; returns it and what changed.

        Raises:
            UserError: There is none.
        """
        if not self._undo:
            raise UserError("there is nothing to undo.")
        step = self._undo.pop()
        self._redo.append(step)
        return step, self._restore([(p, p.before) for p in reversed(step.patches)])

    def redo(self) -> tuple[Step, list[Region]]:
        """Does again what ``undo`` took back; returns the step and what changed.

        Raises:
            UserError: There is nothing.
        """
        if not self._redo:
            raise UserError("there is nothing to redo.")
        step = self._redo.pop()
        self._undo.append(step)
        return step, self._restore([(p, p.after) for p in step.patches])

    def _restore(self, parts: Sequence[tuple[Patch, bytes]]) -> list[Region]:
        """Puts packed masks back; returns for each object the box around all of them."""
        boxes: dict[int, list[tuple[slice, ...]]] = {}
        for patch, packed in parts:
            sides = [part.stop - part.start for part in patch.box]
            self.masks[patch.object_id][patch.box] = unpack_mask(packed, sides)
            boxes.setdefault(patch.object_id, []).append(patch.box)
        self.revision += 1
        regions = []
        for object_id, touched in boxes.items():
            low = [min(box[a].start for box in touched) for a in range(3)]
            high = [max(box[a].stop for box in touched) for a in range(3)]
            around = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            mask = self.masks[object_id][around].copy()
            regions.append(Region(object_id, (low[0], low[1], low[2]), mask))
        return regions
