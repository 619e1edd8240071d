"""Which box prompts an object in the next frame: of its last mask, with a margin."""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from medsam2_ft.prompts import mask_to_box, pad_box, scale_boxes

# Margins are given in pixels of a 1024 input.
MARGIN_REFERENCE_SIZE: Final = 1024
Fallback = Literal["last", "first"]
Box = Float32[np.ndarray, " 4"]


class BoxTrail:
    """The boxes of several objects from frame to frame.

    They are kept in pixels of a square input, to which the frame is stretched: so the same mask
    gives every model the same next box.

    Args:
        hw: Height and width of the frames.
        input_size: Side of the square in pixels.
        margin_px: Margin around a mask's tight box, in pixels of a 1024 input.
        fallback: Which box an empty mask leaves for the next frame: the last one, or the first
            that the object was prompted with.

    Attributes:
        next: Next box of each object that has one, in pixels of the square.
    """

    def __init__(
        self, hw: tuple[int, int], input_size: int, margin_px: float, fallback: Fallback = "last"
    ) -> None:
        self.hw = hw
        self.input_hw = (input_size, input_size)
        self.margin_px = margin_px * input_size / MARGIN_REFERENCE_SIZE
        self.fallback = fallback
        self.next: dict[int, Box] = {}
        self._first: dict[int, Box] = {}
        # The box that follows a frame, where it was asked to be kept.
        self._after: dict[int, dict[int, Box]] = {}

    def __contains__(self, object_id: int) -> bool:
        """Whether an object has a next box."""
        return object_id in self.next

    def native(self, object_ids: Sequence[int]) -> Float32[np.ndarray, "n 4"]:
        """Next boxes of objects that have one, in pixels of the frames."""
        boxes = np.stack([self.next[object_id] for object_id in object_ids])
        return scale_boxes(boxes, self.input_hw, self.hw)

    def prompted(self, object_id: int, box_xyxy: Box) -> None:
        """Notes a box that a user gave, in pixels of the frames."""
        self.next[object_id] = self._scaled(box_xyxy)
        self._first.setdefault(object_id, self.next[object_id])

    def advance(
        self, frame: int, object_id: int, mask: Bool[np.ndarray, "h w"], *, keep: bool
    ) -> None:
        """Derives an object's next box from its mask in a frame; ``keep`` notes it for later."""
        box = mask_to_box(mask)
        if box is not None:
            self.next[object_id] = pad_box(self._scaled(box), self.margin_px, self.input_hw)
        elif self.fallback == "first" and object_id in self._first:
            self.next[object_id] = self._first[object_id]
        if keep and object_id in self.next:
            self._after.setdefault(object_id, {})[frame] = self.next[object_id]

    def visited(self, frame: int, object_ids: Sequence[int]) -> None:
        """Goes on from a frame, where its next box has been kept."""
        for object_id in object_ids:
            if frame in self._after.get(object_id, {}):
                self.next[object_id] = self._after[object_id][frame]

    def start_sweep(self, came_from: int, object_ids: Sequence[int]) -> None:
        """Takes up the kept box of a frame, else of the nearest frame that has one."""
        for object_id in object_ids:
            known = self._after.get(object_id, {})
            if known:
                nearest = min(known, key=lambda index: (abs(index - came_from), index))
                self.next[object_id] = known[nearest]

    def turn_back(self) -> None:
        """Returns to the boxes that follow the first kept frames."""
        self.next = {object_id: known[min(known)] for object_id, known in self._after.items()}

    def forget(self, object_id: int, frame: int | None = None) -> None:
        """Takes back the kept box of one frame, or an object as a whole."""
        if frame is not None:
            self._after.get(object_id, {}).pop(frame, None)
            return
        for store in (self.next, self._first, self._after):
            store.pop(object_id, None)

    def _scaled(self, box_xyxy: Box) -> Box:
        """Pixels of the frames to pixels of the square."""
        scaled: NDArray[np.float32] = scale_boxes(box_xyxy[None], self.hw, self.input_hw)[0]
        return scaled
