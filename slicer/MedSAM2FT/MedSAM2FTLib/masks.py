"""The segments of a session: what the server knows of them, and what Slicer shows.

Before each request the server hears what the user drew meanwhile, and afterwards the segment gets
the voxels that the server changed. So both always hold the same, and nobody's voxels are lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Protocol

import numpy as np
from numpy.typing import NDArray

from .steps import Patch
from .wire import apply_region, changed_box, region_to_json


class SceneError(Exception):
    """The scene does not allow it; says what to do, one line."""


class SceneGone(SceneError):
    """A node or a segment was deleted."""


@dataclass(frozen=True)
class Target:
    """A segment.

    Attributes:
        node_id: Of the segmentation node.
        segment_id: Within it.
    """

    node_id: str
    segment_id: str


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels of a session.

    Attributes:
        volume_id: Node of the volume.
        ijk_to_ras: 4x4, as it was when the volume was sent.
        shape: ``(k, j, i)``.
        frame: Of a sequence; else None.
        stamp: Changes when the voxels or the matrix do.
    """

    volume_id: str
    ijk_to_ras: NDArray[np.float64]
    shape: tuple[int, int, int]
    frame: Optional[int]
    stamp: Any


class Segments(Protocol):
    """The part of ``scene.Scene`` that is needed here."""

    def segment_place(self, target: Target) -> int:
        """Returns where a segment stands in its list, from 0; ``SceneGone``."""

    def segment_stamp(self, target: Target) -> int:
        """Returns a number that changes with the segment's voxels; ``SceneGone``."""

    def read_segment(self, target: Target, grid: Grid) -> NDArray[np.bool_]:
        """Returns a segment's mask in a grid; ``SceneGone``, ``SceneError``."""

    def write_segment(
        self, target: Target, grid: Grid, offset: Sequence[int], add: Any, remove: Any
    ) -> None:
        """Adds voxels and removes others within a box; ``SceneGone``, ``SceneError``."""


class Masks:
    """Masks by the number that an object has on the server.

    Args:
        segments: The scene.
        grid: Of the session.
    """

    def __init__(self, segments: Segments, grid: Grid) -> None:
        self.segments = segments
        self.grid = grid
        self.targets: dict[int, Target] = {}
        self._held: dict[int, NDArray[np.bool_]] = {}
        self._stamps: dict[int, int] = {}

    def object_of(self, target: Target) -> int:
        """Returns the number of a segment; a new one where it has none yet.

        It is its place in the list where that is free, so that equal lists get equal numbers.

        Raises:
            SceneGone: The segment was deleted.
        """
        for object_id, known in self.targets.items():
            if known == target:
                return object_id
        object_id = self.segments.segment_place(target) + 1
        if object_id in self.targets:
            object_id = max(self.targets) + 1
        self.targets[object_id] = target
        return object_id

    def held(self, object_id: int) -> NDArray[np.bool_]:
        """Returns what the server knows of an object."""
        if object_id not in self._held:
            self._held[object_id] = np.zeros(self.grid.shape, np.bool_)
        return self._held[object_id]

    def gone(self) -> list[int]:
        """Returns the objects whose segments were deleted while the server holds voxels."""
        return [object_id for object_id in self.targets if not self._exists(object_id)]

    def _exists(self, object_id: int) -> bool:
        try:
            self.segments.segment_stamp(self.targets[object_id])
        except SceneGone:
            return False
        return True

    def drawn(self) -> list[Patch]:
        """Returns what the user changed by hand since the last call, and holds it as known.

        Raises:
            SceneError: A segment lies on another grid.
        """
        patches = []
        for object_id, target in self.targets.items():
            try:
                stamp = self.segments.segment_stamp(target)
                if stamp == self._stamps.get(object_id):
                    continue
                shown = self.segments.read_segment(target, self.grid)
            except SceneGone:
                continue
            held = self.held(object_id)
            box = changed_box(held, shown)
            if box is not None:
                patches.append(Patch.of(object_id, box, held[box], shown[box]))
                held[box] = shown[box]
            self._stamps[object_id] = stamp
        return patches

    def take_back(self, patches: Sequence[Patch]) -> None:
        """The server has not heard of these after all: the next ``drawn`` finds them again."""
        for patch in patches:
            self.held(patch.object_id)[patch.box] = patch.mask(after=False)
            self._stamps.pop(patch.object_id, None)

    def apply(self, regions: Sequence[dict[str, Any]]) -> list[Patch]:
        """Takes over what the server changed, into the segments as well.

        Returns:
            What changed, one patch for each object.

        Raises:
            WireError: A region is damaged.
            SceneError: A segment cannot be written.
        """
        patches = []
        for object_id in dict.fromkeys(int(region["object_id"]) for region in regions):
            mine = [region for region in regions if int(region["object_id"]) == object_id]
            held = self.held(object_id)
            around = _around(mine)
            before = held[around].copy()
            for region in mine:
                apply_region(held, region)
            inner = changed_box(before, held[around])
            if inner is not None:
                box = [
                    slice(outer.start + part.start, outer.start + part.stop)
                    for outer, part in zip(around, inner)
                ]
                after = held[tuple(box)]
                patches.append(Patch.of(object_id, box, before[inner], after))
                self._write(object_id, box, before[inner], after)
        return patches

    def restore(self, patches: Sequence[Patch], *, after: bool) -> None:
        """Puts boxes back as they were before, or after, a step; without the server."""
        for patch in patches if after else reversed(patches):
            held, wanted = self.held(patch.object_id), patch.mask(after=after)
            before = held[patch.box].copy()
            held[patch.box] = wanted
            self._write(patch.object_id, patch.box, before, wanted)

    def _write(
        self, object_id: int, box: Sequence[slice], before: NDArray[Any], after: NDArray[Any]
    ) -> None:
        """Only voxels that changed are written: whatever lies between them is the user's."""
        if object_id not in self.targets:
            return
        target = self.targets[object_id]
        try:
            untouched = self.segments.segment_stamp(target) == self._stamps.get(object_id)
            offset = [part.start for part in box]
            self.segments.write_segment(target, self.grid, offset, after & ~before, before & ~after)
            if untouched:
                self._stamps[object_id] = self.segments.segment_stamp(target)
        except SceneGone:
            return

    def whole(self) -> list[dict[str, Any]]:
        """Returns all masks as the segments hold them, for a server that has lost them.

        Raises:
            SceneError: A segment lies on another grid.
        """
        self.drawn()
        return [
            region_to_json(object_id, self.held(object_id), [0, 0, 0])
            for object_id in self.targets
            if self._exists(object_id)
        ]


def _around(regions: Sequence[dict[str, Any]]) -> tuple[slice, ...]:
    """The box around several regions."""
    sides = []
    for axis in range(3):
        first = min(int(region["offset"][axis]) for region in regions)
        last = max(int(region["offset"][axis]) + int(region["shape"][axis]) for region in regions)
        sides.append(slice(first, last))
    return tuple(sides)
