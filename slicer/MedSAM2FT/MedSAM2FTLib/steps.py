"""What the module changed, so that it can be taken back also where the server is gone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from .wire import pack_mask, unpack_mask

KEPT = 50
"""As many as the server keeps."""


@dataclass(frozen=True)
class Said:
    """All that is said about one object on one slice.

    Attributes:
        object_id: The object's number on the server.
        axis: Axis of the slice.
        index: The slice.
        box: ``x0, y0, x1, y1``.
        points: ``x, y, label`` of each.
    """

    object_id: int
    axis: int
    index: int
    box: Optional[tuple[int, int, int, int]] = None
    points: tuple[tuple[int, int, int], ...] = ()

    @property
    def key(self) -> tuple[int, int, int]:
        """Object, axis and slice."""
        return self.object_id, self.axis, self.index

    def to_json(self) -> dict[str, Any]:
        """Returns the body of POST /prompts."""
        return {
            "object_id": self.object_id,
            "axis": self.axis,
            "index": self.index,
            "box": None if self.box is None else list(self.box),
            "points": [[x, y] for x, y, _ in self.points],
            "labels": [label for _, _, label in self.points],
        }


Prompts = tuple[Said, ...]


def with_prompt(prompts: Prompts, said: Said) -> Prompts:
    """Returns prompts in which one takes the place of an earlier one on the same slice."""
    return (*(other for other in prompts if other.key != said.key), said)


@dataclass(frozen=True)
class Patch:
    """A box of one object before and after; masks are packed.

    Attributes:
        object_id: The object.
        box: Where.
        before: Its mask there.
        after: Its mask there.
    """

    object_id: int
    box: tuple[slice, ...]
    before: bytes
    after: bytes

    @classmethod
    def of(
        cls, object_id: int, box: Sequence[slice], before: NDArray[Any], after: NDArray[Any]
    ) -> "Patch":
        """Packs two masks of one box."""
        return cls(object_id, tuple(box), pack_mask(before), pack_mask(after))

    def mask(self, *, after: bool) -> NDArray[np.bool_]:
        """Unpacks one of the two."""
        sides = [part.stop - part.start for part in self.box]
        return unpack_mask(self.after if after else self.before, sides)


@dataclass(frozen=True)
class Step:
    """What one Undo takes back.

    Attributes:
        said_before: All prompts before it.
        said_after: All prompts after it.
        patches: What changed.
    """

    said_before: Prompts
    said_after: Prompts
    patches: tuple[Patch, ...]


@dataclass
class Steps:
    """Steps that can be taken back, and those that were.

    Attributes:
        known: As many of the first steps are older than the server's session: it cannot undo them.
    """

    known: int = 0
    done: list[Step] = field(default_factory=list)
    undone: list[Step] = field(default_factory=list)

    def push(self, step: Step) -> None:
        """Adds a step; what was undone cannot be done again any more."""
        self.done.append(step)
        self.undone.clear()
        while len(self.done) > KEPT:
            del self.done[0]
            self.known = max(0, self.known - 1)

    def forget_server(self) -> None:
        """A new session of the server knows none of the steps."""
        self.known = len(self.done)
        self.undone.clear()

    @property
    def server_can_undo(self) -> bool:
        """Whether the server knows the last step."""
        return len(self.done) > self.known

    def undo(self) -> Step:
        """Moves the last step to those that are undone and returns it."""
        self.undone.append(self.done.pop())
        self.known = min(self.known, len(self.done))
        return self.undone[-1]

    def redo(self) -> Step:
        """Moves the step that was undone last back and returns it."""
        self.done.append(self.undone.pop())
        return self.done[-1]
