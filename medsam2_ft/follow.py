"""How an object is carried from one frame to the next: what every way has in common.

A follower segments objects in the frames that it is shown, in the order in which it is shown them:
``prompt`` where a user says something about a frame, ``follow`` elsewhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from medsam2_ft.features import Encoding, PromptTensors
from medsam2_ft.object_prompts import SlicePrompt
from medsam2_ft.resize import logits_to_native
from medsam2_ft.sam2_adapter import Sam2

# Small groups are faster than one large batch: 3 x 4 objects took 0.67 s where 12 took 1.01 s.
OBJECTS_PER_PASS: Final = 4
# As in Meta's predictors, "to avoid rare numerical issues".
_PREVIOUS_LIMIT: Final = 32.0
_CORNER_LABELS: Final = (2, 3)

Item = TypeVar("Item")
Prompted = tuple[int, SlicePrompt]
"""An object's id and what is said about it in the frame at hand."""


class Follower(ABC):
    """Segments objects in a frame, given what it remembers of other frames.

    Args:
        model: Any SAM2.
        hw: Height and width of the frames.

    Attributes:
        reads_ahead: Whether a frame is segmented from prompts on later frames, too, so that all
            must be known before a sweep.
    """

    reads_ahead: bool

    def __init__(self, model: Sam2, hw: tuple[int, int]) -> None:
        self.model = model
        self.hw = hw

    @abstractmethod
    def prompt(
        self, frame: int, encoding: Encoding, group: Sequence[Prompted]
    ) -> Float[Tensor, "n h w"]:
        """Segments objects as prompted, or corrects what is known of them in this frame.

        Args:
            frame: Index.
            encoding: Its features (``b == 1``).
            group: At least one object with its prompt.

        Returns:
            Native-size logits, float32.
        """

    @abstractmethod
    def follow(
        self, frame: int, encoding: Encoding, object_ids: Sequence[int], reverse: bool
    ) -> Float[Tensor, "n h w"]:
        """Segments objects that are not prompted in this frame.

        Args:
            frame: Index.
            encoding: Its features (``b == 1``).
            object_ids: At least one object that has been prompted somewhere.
            reverse: Whether frames are visited from last to first.

        Returns:
            Native-size logits, float32.
        """

    @abstractmethod
    def prompted(self, frame: int, object_id: int) -> Float[Tensor, "1 h w"] | None:
        """What ``prompt`` made of an object in this frame; None where it was not prompted."""

    @abstractmethod
    def start_sweep(self, frame: int, object_ids: Sequence[int], reverse: bool) -> None:
        """Prepares for a sweep that starts at a frame."""

    @abstractmethod
    def visited(self, frame: int, object_ids: Sequence[int], reverse: bool) -> None:
        """Notes that a sweep passes a frame in which these objects have been prompted."""

    @abstractmethod
    def shrink(self, frame: int, max_bytes: int) -> None:
        """Forgets unprompted frames, the farthest from ``frame`` first, down to a limit."""

    @abstractmethod
    def turn_back(self) -> None:
        """Returns to the first prompted frames, before the backward half of a one-shot run."""

    @abstractmethod
    def forget(self, object_id: int, frame: int | None = None) -> None:
        """Takes back the prompt of one frame, or an object as a whole."""

    def native(self, logits: Float[Tensor, "n 1 l l"]) -> Float[Tensor, "n h w"]:
        """Brings logits to the frames' own grid."""
        return logits_to_native(logits, self.hw)

    def tensors(
        self,
        prompts: Sequence[SlicePrompt],
        previous: Sequence[Float[Tensor, "1 1 l l"] | None],
    ) -> PromptTensors:
        """Turns prompts of one kind (``kind_of``) into the model's input.

        Args:
            prompts: Of several objects in one frame.
            previous: What is known of each object in this frame; all None or none of them.
        """
        device, size = self.model.device, self.model.image_size
        if prompts[0].mask is not None:
            drawn = torch.from_numpy(np.stack([p.mask for p in prompts if p.mask is not None]))
            masks = drawn[:, None].to(device).float()
            if self.hw != (size, size):
                masks = interpolate(
                    masks, (size, size), mode="bilinear", align_corners=False, antialias=True
                )
                masks = (masks >= 0.5).float()
            return PromptTensors(masks=masks)
        scale = np.array([size / self.hw[1], size / self.hw[0]])
        points = np.stack([_points(prompt) for prompt in prompts]) * scale
        labels = np.stack([_labels(prompt) for prompt in prompts])
        known = [logits.to(device) for logits in previous if logits is not None]
        return PromptTensors(
            points_xy=torch.from_numpy(points.astype(np.float32)).to(device),
            point_labels=torch.from_numpy(labels).to(device),
            previous_logits=torch.cat(known).clamp(-_PREVIOUS_LIMIT, _PREVIOUS_LIMIT)
            if known
            else None,
        )


def kind_of(prompt: SlicePrompt) -> int:
    """Number of points that the model sees, 0 for a mask: prompts of one kind can share a pass."""
    return 0 if prompt.mask is not None else prompt.point_count


def passes(
    items: Sequence[Item], key: Callable[[Item], Hashable]
) -> Iterator[tuple[list[int], list[Item]]]:
    """Cuts items with equal keys into groups that share a pass.

    Args:
        items: Objects, or objects with their prompts.
        key: What must be equal within a group; comparable.

    Yields:
        Positions in ``items``, and the items themselves.
    """
    order: list[int] = sorted(range(len(items)), key=lambda i: _comparable(key(items[i])))
    for _, alike in groupby(order, key=lambda i: key(items[i])):
        group = list(alike)
        for start in range(0, len(group), OBJECTS_PER_PASS):
            part = group[start : start + OBJECTS_PER_PASS]
            yield part, [items[i] for i in part]


def _comparable(key: Hashable) -> Any:
    return key


def in_order(
    parts: Sequence[tuple[Sequence[int], Float[Tensor, "_ 1 l l"]]],
) -> Float[Tensor, "n 1 l l"]:
    """Puts the rows of several passes (positions, logits) into the order of the items."""
    positions = [position for group, _ in parts for position in group]
    rows = torch.cat([logits for _, logits in parts])
    return rows[torch.tensor(positions, device=rows.device).argsort()]


def _points(prompt: SlicePrompt) -> np.ndarray:
    box = [] if prompt.box_xyxy is None else [prompt.box_xyxy.reshape(2, 2)]
    return np.concatenate([*box, prompt.points_xy.reshape(-1, 2)]).astype(np.float64)


def _labels(prompt: SlicePrompt) -> np.ndarray:
    box = () if prompt.box_xyxy is None else _CORNER_LABELS
    return np.array([*box, *prompt.point_labels.tolist()], np.int32)
