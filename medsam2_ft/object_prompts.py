"""What a user says about an object: boxes, points or masks on slices."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float32, Int32

from medsam2_ft.errors import UserError


def _no_points() -> Float32[np.ndarray, "p 2"]:
    return np.zeros((0, 2), np.float32)


def _no_labels() -> Int32[np.ndarray, " p"]:
    return np.zeros(0, np.int32)


@dataclass(frozen=True, eq=False)
class SlicePrompt:
    """What a user says about one object in one slice, in native pixels.

    Either a mask, or a box and points (one of them at least).

    Attributes:
        frame: Index of the slice.
        box_xyxy: Box around the object, used as it is, without a margin.
        points_xy: Pixel indices (x, y).
        point_labels: For each point: 1 lies on the object, 0 does not.
        mask: The object, drawn; taken as it is.
    """

    frame: int
    box_xyxy: Float32[np.ndarray, " 4"] | None = None
    points_xy: Float32[np.ndarray, "p 2"] = field(default_factory=_no_points)
    point_labels: Int32[np.ndarray, " p"] = field(default_factory=_no_labels)
    mask: Bool[np.ndarray, "h w"] | None = None

    @property
    def point_count(self) -> int:
        """Number of points that the model sees: a box counts as two."""
        return len(self.points_xy) + (0 if self.box_xyxy is None else 2)


@dataclass(frozen=True, eq=False)
class ObjectPrompt:
    """One object to follow.

    Attributes:
        object_id: The caller's name for it, unique within a call.
        slices: What is said about it, at most once for each slice.
        z_range: First and last frame to segment, inclusive, around all prompted ones.
    """

    object_id: int
    slices: tuple[SlicePrompt, ...]
    z_range: tuple[int, int]

    @classmethod
    def from_box(
        cls,
        object_id: int,
        frame: int,
        box_xyxy: Float32[np.ndarray, " 4"],
        z_range: tuple[int, int],
    ) -> "ObjectPrompt":
        """Returns an object that is prompted by one box."""
        return cls(object_id, (SlicePrompt(frame, box_xyxy),), z_range)

    @property
    def frame(self) -> int:
        """The first prompted frame, where following it starts."""
        return min(prompt.frame for prompt in self.slices)

    @property
    def frames(self) -> frozenset[int]:
        """All prompted frames."""
        return frozenset(prompt.frame for prompt in self.slices)


def check_prompts(prompts: Sequence[ObjectPrompt], count: int, hw: tuple[int, int]) -> None:
    """Refuses prompts that cannot be followed, naming the object.

    Args:
        prompts: Objects.
        count: Number of frames.
        hw: Height and width of a frame.

    Raises:
        UserError: An id twice, an object or a slice without a prompt, a frame outside the volume
            or the range, or a box, point or mask that does not fit the image.
    """
    seen: set[int] = set()
    for prompt in prompts:
        name = f"object {prompt.object_id}"
        first, last = prompt.z_range
        if prompt.object_id in seen:
            raise UserError(f"{name} is prompted more than once; give every prompt its own id.")
        seen.add(prompt.object_id)
        if not prompt.slices:
            raise UserError(f"{name} has no prompt; give a box, points or a mask on a slice.")
        if len(prompt.frames) < len(prompt.slices):
            raise UserError(f"{name} has two prompts on one slice; join them into one.")
        for part in prompt.slices:
            if not 0 <= part.frame < count:
                raise UserError(
                    f"{name}: there is no frame {part.frame}; choose one of frames 0-{count - 1}."
                )
            if not 0 <= first <= part.frame <= last < count:
                raise UserError(
                    f"{name}: range {first}-{last} must lie within frames 0-{count - 1} and hold "
                    f"the prompted frame {part.frame}."
                )
            check_slice_prompt(name, part, hw)


def clip_boxes(prompt: ObjectPrompt, hw: tuple[int, int]) -> ObjectPrompt:
    """Cuts the boxes of an object that passed ``check_prompts`` to frames of ``hw`` pixels."""
    limits = np.array([hw[1] - 1, hw[0] - 1] * 2, np.float32)
    parts = tuple(
        part
        if part.box_xyxy is None
        else replace(part, box_xyxy=np.clip(part.box_xyxy, np.float32(0), limits))
        for part in prompt.slices
    )
    return replace(prompt, slices=parts)


def check_slice_prompt(name: str, prompt: SlicePrompt, hw: tuple[int, int]) -> None:
    """Refuses a prompt that says nothing or does not fit a slice of ``hw`` pixels.

    Args:
        name: Name of the object, for the message.
        prompt: What is checked.
        hw: Height and width of the slice.

    Raises:
        UserError: See ``check_prompts``.
    """
    height, width = hw
    if prompt.mask is not None:
        if prompt.point_count:
            raise UserError(f"{name}: a mask and points or a box on one slice; give one of them.")
        if prompt.mask.shape != hw or not prompt.mask.any():
            raise UserError(
                f"{name}: its mask of shape {prompt.mask.shape} is empty or not of the image's "
                f"{height} x {width} pixels (rows x columns)."
            )
        return
    if not prompt.point_count:
        raise UserError(
            f"{name}: the prompt of slice {prompt.frame} is empty; give a box or points."
        )
    if prompt.box_xyxy is not None:
        x0, y0, x1, y1 = (float(side) for side in prompt.box_xyxy)
        inside = x0 <= x1 and y0 <= y1 and x1 >= 0 and y1 >= 0 and x0 < width and y0 < height
        if not inside or not np.isfinite(prompt.box_xyxy).all():
            raise UserError(
                f"{name}: box {x0:g},{y0:g},{x1:g},{y1:g} (x0,y0,x1,y1) is not a box inside the "
                f"image of {width} x {height} pixels."
            )
    for (x, y), label in zip(prompt.points_xy.tolist(), prompt.point_labels.tolist(), strict=True):
        if not (0 <= x < width and 0 <= y < height) or label not in (0, 1):
            raise UserError(
                f"{name}: point {x:g},{y:g} with label {label} does not lie in the image of "
                f"{width} x {height} pixels, or its label is neither 1 (object) nor 0."
            )
