"""Masks, as they come frame by frame, become label maps.

Nothing is held besides the maps. Where two objects can meet in a frame that one of them passes on
the way forward and the other on the way backward, the logits of the first are needed again: they
wait in a temporary file, so that memory does not grow with the number of frames.
"""

import tempfile
from collections.abc import Sequence
from typing import IO, Any, Literal

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.checks import MAX_LABEL_ID
from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.volume_prompts import frames_along

Overlap = Literal["largest_logit", "keep"]


class LabelCanvas:
    """Draws masks into ``(z, y, x)`` maps.

    Args:
        shape_zyx: Of the maps.
        prompts: The objects, whose ids are drawn; as ``propagate`` checks them.
        axis: Axis whose slices are frames.
        overlap: ``largest_logit``: one map; a voxel goes to the object with the largest positive
            logit, of equal ones to the first drawn. ``keep``: an object that meets another goes to
            a further map as a whole.

    Raises:
        UserError: An id that a label map cannot hold.
    """

    def __init__(
        self,
        shape_zyx: tuple[int, int, int],
        prompts: Sequence[ObjectPrompt],
        axis: int,
        overlap: Overlap,
    ) -> None:
        for prompt in prompts:
            if not 1 <= prompt.object_id <= MAX_LABEL_ID:
                raise UserError(
                    f"object {prompt.object_id}: label maps hold ids from 1 to {MAX_LABEL_ID}; "
                    "give it another one."
                )
        largest = max((prompt.object_id for prompt in prompts), default=0)
        self.shape = shape_zyx
        self.dtype = np.dtype(np.uint8 if largest <= 255 else np.uint16)
        self.axis = axis
        self.overlap = overlap
        self.maps: list[NDArray[Any]] = [np.zeros(shape_zyx, self.dtype)]
        self.ranges = {prompt.object_id: prompt.z_range for prompt in prompts}
        self.map_of = dict.fromkeys(self.ranges, 0)
        self.spill = _Spill()
        self.meetings = _meetings(prompts) if overlap == "largest_logit" else set()

    def draw(
        self, frame: int, object_ids: Sequence[int], logits: Float32[np.ndarray, "n h w"]
    ) -> None:
        """Draws the objects of a frame; each of them comes once in a frame.

        Args:
            frame: Index along the axis.
            object_ids: One or more ids.
            logits: Their mask logits; above 0 is the object.
        """
        if self.overlap == "keep":
            for object_id, own in zip(object_ids, logits, strict=True):
                self._draw_apart(frame, object_id, own > 0)
            return
        plane = self._frames(0)[frame]
        best = self.spill.read(frame, logits.shape[1:])
        for object_id, own in zip(object_ids, logits, strict=True):
            wins = own > best
            plane[wins] = object_id
            best[wins] = own[wins]
        if frame in self.meetings:  # once: the second visit is the last
            self.meetings.remove(frame)
            self.spill.write(frame, best)

    def _frames(self, index: int) -> NDArray[Any]:
        return frames_along(self.maps[index], self.axis)

    def _draw_apart(self, frame: int, object_id: int, mask: NDArray[np.bool_]) -> None:
        index = self.map_of[object_id]
        if self._frames(index)[frame][mask].any():
            index = self._move(object_id, frame, mask)
        self._frames(index)[frame][mask] = object_id

    def _move(self, object_id: int, frame: int, mask: NDArray[np.bool_]) -> int:
        """Takes an object to the next map that is free under all of it; returns its index."""
        old = self._frames(self.map_of[object_id])
        first, last = self.ranges[object_id]
        for index in range(self.map_of[object_id] + 1, len(self.maps) + 1):
            if index == len(self.maps):
                self.maps.append(np.zeros(self.shape, self.dtype))
            new = self._frames(index)
            if new[frame][mask].any():
                continue
            if not any(new[z][old[z] == object_id].any() for z in range(first, last + 1)):
                break
        for z in range(first, last + 1):
            drawn = old[z] == object_id
            new[z][drawn] = object_id
            old[z][drawn] = 0
        self.map_of[object_id] = index
        return index


class _Spill:
    """Logit planes in a temporary file, each cropped to where it is positive."""

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None
        self.places: dict[int, tuple[int, slice, slice]] = {}

    def write(self, frame: int, plane: Float32[np.ndarray, "h w"]) -> None:
        rows, columns = (np.flatnonzero((plane > 0).any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return
        if self.file is None:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the canvas
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        self.places[frame] = (self.file.seek(0, 2), *box)
        self.file.write(np.ascontiguousarray(plane[box]).tobytes())

    def read(self, frame: int, hw: tuple[int, ...]) -> Float32[np.ndarray, "h w"]:
        """Returns what was written of a frame, zeros elsewhere."""
        plane = np.zeros(hw, np.float32)
        if frame in self.places and self.file is not None:
            offset, *box = self.places[frame]
            self.file.seek(offset)
            part = plane[tuple(box)]
            stored = np.frombuffer(self.file.read(part.nbytes), np.float32)
            part[...] = stored.reshape(part.shape)
        return plane


def _meetings(prompts: Sequence[ObjectPrompt]) -> set[int]:
    """Frames that some object passes forward and another backward."""
    forward = {f for p in prompts for f in range(p.frame, p.z_range[1] + 1)}
    backward = {f for p in prompts for f in range(p.z_range[0], p.frame)}
    return forward & backward
