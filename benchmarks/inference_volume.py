"""The generated volume of benchmarks/inference.py and the boxes of its twelve labels."""

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.prompts import mask_to_box, pad_box, scale_boxes

ROWS, COLUMNS = 3, 4
LABELS = ROWS * COLUMNS
MARGIN_PX = 5.0  # at 1024


def volume(depth: int, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Dark ellipses in a bright body, as lungs in a CT, that drift and change size with z."""
    frames = np.empty((depth, side, side), np.uint8)
    labels = np.zeros((depth, side, side), np.uint8)
    rows, columns = (np.mgrid[:side, :side] + 0.5) / side
    rng = np.random.default_rng(0)
    phases = rng.uniform(0, 2 * np.pi, (LABELS, 3))
    texture = rng.normal(0, 8, (side, side))
    for z in range(depth):
        for label in range(LABELS):
            row, column = divmod(label, COLUMNS)
            swing = np.sin(2 * np.pi * z / 40 + phases[label])
            centre = (
                (row + 0.5 + 0.06 * swing[0]) / ROWS,
                (column + 0.5 + 0.06 * swing[1]) / COLUMNS,
            )
            radius = 0.09 * (1 + 0.15 * swing[2])
            inside = ((rows - centre[0]) / 1.3) ** 2 + (columns - centre[1]) ** 2 < radius**2
            labels[z][inside] = label + 1
        shade = np.where(labels[z] > 0, 60, 190) + np.roll(texture, 7 * z, axis=1)
        frames[z] = shade.clip(0, 255).astype(np.uint8)
    return frames, labels


def padded(mask: NDArray[np.bool_], size: int) -> NDArray[np.float32] | None:
    """The box of a mask with its margin, in pixels of the image; None for an empty mask."""
    box = mask_to_box(mask)
    if box is None:
        return None
    scaled = scale_boxes(box[None], mask.shape, (size, size))[0]
    grown = pad_box(scaled, MARGIN_PX * size / 1024, (size, size))
    return scale_boxes(grown[None], (size, size), mask.shape)[0]


def first_boxes(labels: NDArray[np.uint8], frame: int, size: int) -> dict[int, NDArray[np.float32]]:
    """Prompt of each label on a frame."""
    boxes = {label: padded(labels[frame] == label, size) for label in range(1, LABELS + 1)}
    return {label: box for label, box in boxes.items() if box is not None}
