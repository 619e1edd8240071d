"""From a stored slice to what the model sees: resizing, compact label maps, mask targets."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8

# Value of labelled pixels whose object is not among the chosen ones.
OTHER = 255
# Chosen objects of one slice must fit below OTHER.
MOST_OBJECTS = 254


def resize(array: Shaped[np.ndarray, "h w *c"], size: int) -> Shaped[np.ndarray, "s s *c"]:
    """Resizes to a square: area average where it shrinks, linear where it grows.

    Both use half-pixel centres, as torch's ``align_corners=False`` does. uint8 in, uint8 out.

    Args:
        array: uint8 or float32 slice.
        size: Side of the result in pixels.
    """
    height, width = array.shape[:2]
    if height == width == size:
        return array
    # OpenCV has one method for both axes, and INTER_AREA does not average an axis once the other
    # one grows: shrink first, then grow.
    small = (min(height, size), min(width, size))
    if small != (height, width):
        array = cv2.resize(array, small[::-1], interpolation=cv2.INTER_AREA)
    if small != (size, size):
        array = cv2.resize(array, (size, size), interpolation=cv2.INTER_LINEAR)
    return array


def low_resolution_mask(mask: Bool[np.ndarray, "h w"], size: int) -> Bool[np.ndarray, "s s"]:
    """Returns the mask on a square grid: True where it covers at least half of a cell.

    An object that covers half of no cell keeps the cells that it covers most, so that a real object
    never turns into a negative.

    Args:
        mask: At any size; an empty mask stays empty.
        size: Side of the result.
    """
    coverage = resize(mask.view(np.uint8) * np.uint8(255), size)
    # 127.5 rounds to 128, the even number.
    covered: np.ndarray = coverage >= 128
    if covered.any() or not mask.any():
        return covered
    exact = resize(mask.astype(np.float32), size)
    most: np.ndarray = exact == exact.max()
    return most


def compact_labels(
    plane: Integer[np.ndarray, "h w"], chosen: Sequence[int], first: int
) -> UInt8[np.ndarray, "h w"]:
    """Renumbers a label map so that one byte holds it.

    Args:
        plane: Label ids, 0 = background.
        chosen: Ids that get the numbers ``first``, ``first + 1`` ...
        first: At least 1; the last number stays below ``OTHER``.

    Returns:
        The numbers; 0 where there is background, ``OTHER`` where there is any other label.
    """
    if plane.dtype == np.uint8:
        table = np.full(256, OTHER, np.uint8)
        table[0] = 0
        for number, label in enumerate(chosen, start=first):
            table[label] = number
        looked_up: np.ndarray = cv2.LUT(plane, table)  # far faster than numpy's indexing
        return looked_up
    if plane.dtype.itemsize > 2:
        ids, plane = np.unique(plane, return_inverse=True)
    else:
        ids = np.arange(int(plane.max(initial=0)) + 1)
    table = np.where(ids == 0, 0, OTHER).astype(np.uint8)
    for number, label in enumerate(chosen, start=first):
        table[ids == label] = number
    compact: np.ndarray = table[plane]
    return compact


def shrink_labels(
    label_map: UInt8[np.ndarray, "h w"], size_hw: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2"]:
    """Shrinks a label map by nearest neighbour without losing small objects.

    A number that no sampling point hits is put where the middle one of its pixels falls, or as
    near to it as it takes no other number's last pixel. (Of more numbers than pixels some go.)

    Args:
        label_map: Numbers from ``compact_labels``.
        size_hw: Height and width of the result, neither larger than before.
    """
    small = cv2.resize(label_map, size_hw[::-1], interpolation=cv2.INTER_NEAREST)
    lost = set(np.unique(label_map).tolist()) - set(np.unique(small).tolist()) - {OTHER}
    for number in sorted(lost):
        rows, columns = np.nonzero(label_map == number)
        middle = len(rows) // 2
        row = rows[middle] * size_hw[0] // label_map.shape[0]
        column = columns[middle] * size_hw[1] // label_map.shape[1]
        counts = np.bincount(small.ravel(), minlength=OTHER + 1)
        counts[[0, OTHER]] = 2  # background may always be taken
        free = np.argwhere(counts[small] > 1)
        if len(free):
            nearest = np.abs(free - (row, column)).sum(axis=1).argmin()
            small[tuple(free[nearest])] = number
    return small
