"""Masks to prompts and back: boxes, their jitter, and the slice that is prompted.

Pure functions; whoever wants randomness passes a generator. Boxes are ``x0, y0, x1, y1``,
float32, in SAM's convention: corner pixel *indices*, inclusive, so the box of a one-pixel mask has
``x0 == x1`` and ``y0 == y1``.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32

# Tries before a slice counts as having no room for a negative box.
NEGATIVE_TRIES = 30
# The most of its side length that one side of a box may move inward, so that no box collapses.
INWARD_LIMIT = 0.25


def mask_to_box(mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, " 4"] | None:
    """Returns the tight box of a mask in pixels.

    Args:
        mask: True where the object is.

    Returns:
        The inclusive box, or None where the mask is empty.
    """
    if mask.size == 0:
        return None
    x0, y0, width, height = cv2.boundingRect(mask.view(np.uint8))  # faster than numpy's any
    if width == 0:
        return None
    return np.array([x0, y0, x0 + width - 1, y0 + height - 1], dtype=np.float32)


def jitter_box(
    box_xyxy: Float32[np.ndarray, " 4"],
    rng: np.random.Generator,
    max_px: float,
    hw: tuple[int, int],
    inward: bool = False,
) -> Float32[np.ndarray, " 4"]:
    """Moves each side of a box by its own random distance, as an imprecise user would draw it.

    Args:
        box_xyxy: Inclusive box in pixels of an image of size ``hw``.
        rng: Source of the four distances, which are uniform in ``[0, max_px]`` (outward only) or
            in ``[-max_px, max_px]``.
        max_px: Largest distance in the same pixels, >= 0.
        hw: Height and width of the image.
        inward: Also lets sides move inward, each by at most a quarter of the box's side.

    Returns:
        The box, clipped to the image. Without ``inward`` it contains the given one.
    """
    x0, y0, x1, y1 = (float(side) for side in box_xyxy)
    shift = rng.uniform(-max_px if inward else 0.0, max_px, size=4)
    sides = np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
    shift = np.maximum(shift, -INWARD_LIMIT * sides)
    return _grow((x0, y0, x1, y1), shift, hw)


def pad_box(
    box_xyxy: Float32[np.ndarray, " 4"], margin_px: float, hw: tuple[int, int]
) -> Float32[np.ndarray, " 4"]:
    """Grows a box by the same margin on all sides and clips it to the image.

    Args:
        box_xyxy: Inclusive box in pixels of an image of size ``hw``.
        margin_px: Margin in the same pixels, >= 0.
        hw: Height and width of the image.
    """
    x0, y0, x1, y1 = (float(side) for side in box_xyxy)
    return _grow((x0, y0, x1, y1), np.full(4, margin_px), hw)


def _grow(
    box: tuple[float, float, float, float], outward: np.ndarray, hw: tuple[int, int]
) -> Float32[np.ndarray, " 4"]:
    """Moves the sides outward; a side beyond the last pixel index stays where it is."""
    height, width = hw
    x0, y0, x1, y1 = box
    return np.array(
        [
            max(x0 - outward[0], min(0.0, x0)),
            max(y0 - outward[1], min(0.0, y0)),
            # A scaled box may end at S - S/w > S - 1; clipping must not shrink it.
            min(x1 + outward[2], max(width - 1.0, x1)),
            min(y1 + outward[3], max(height - 1.0, y1)),
        ],
        dtype=np.float32,
    )


def scale_boxes(
    boxes_xyxy: Float32[np.ndarray, "n 4"], from_hw: tuple[int, int], to_hw: tuple[int, int]
) -> Float32[np.ndarray, "n 4"]:
    """Carries boxes from one image size to another as Meta's ``SAM2Transforms`` does.

    Coordinates are divided by the old size and multiplied by the new one; there is no half-pixel
    term, which SAM2's prompt encoder adds itself.

    Args:
        boxes_xyxy: Boxes in pixels of an image of size ``from_hw``; may be empty.
        from_hw: Height and width that the boxes refer to.
        to_hw: Height and width that the result refers to.
    """
    scale_y, scale_x = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    factors = np.array([scale_x, scale_y, scale_x, scale_y])
    scaled: np.ndarray = (boxes_xyxy * factors).astype(np.float32)
    return scaled


def object_z_range(mask: Bool[np.ndarray, "z h w"]) -> tuple[int, int] | None:
    """Returns the first and last slice (inclusive) that hold the object, None where none does."""
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    return (int(slices[0]), int(slices[-1])) if slices.size else None


def middle_slice(z_labelled: Sequence[int]) -> int:
    """Returns the labelled slice nearest to ``(z0 + z1) // 2``, the lower one of two equally near.

    Args:
        z_labelled: Slice indices that hold the object, in any order.

    Raises:
        ValueError: If there is none.
    """
    if len(z_labelled) == 0:
        raise ValueError("An object without labelled slices has no middle slice.")
    target = (min(z_labelled) + max(z_labelled)) // 2
    return int(min(z_labelled, key=lambda z: (abs(z - target), z)))


def random_negative_box(
    occupied: Bool[np.ndarray, "h w"], size_wh: tuple[int, int], rng: np.random.Generator
) -> Float32[np.ndarray, " 4"] | None:
    """Draws a box that holds no labelled pixel, by rejection.

    Args:
        occupied: True at every labelled pixel.
        size_wh: Columns and rows that the box covers; cut to the image.
        rng: Source of the positions.

    Returns:
        The inclusive box in pixels, or None where no try found room.
    """
    height, width = occupied.shape
    box_width = min(max(size_wh[0], 1), width)
    box_height = min(max(size_wh[1], 1), height)
    for _ in range(NEGATIVE_TRIES):
        x0 = int(rng.integers(width - box_width + 1))
        y0 = int(rng.integers(height - box_height + 1))
        if not occupied[y0 : y0 + box_height, x0 : x0 + box_width].any():
            return np.array(
                [x0, y0, x0 + box_width - 1, y0 + box_height - 1],
                dtype=np.float32,
            )
    return None
