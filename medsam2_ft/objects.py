"""The labelled objects of a case, and the prompt that stands for each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Integer
from numpy.typing import NDArray

from medsam2_ft.prompts import mask_to_box, middle_slice, pad_box, scale_boxes
from medsam2_ft.propagate import MARGIN_REFERENCE_SIZE, ObjectPrompt
from medsam2_ft.types import Case


@dataclass(frozen=True)
class Target:
    """An object and the prompt that stands for it.

    Attributes:
        label: Id; for a region ``-1``, ``-2`` ... in the case's order.
        name: Of the label or region; the id as text where it has none.
        label_map: ``(z, y, x)`` map that holds the object.
        value: What it is there.
        prompt: Box on its middle slice, and the slices that are segmented.
    """

    label: int
    name: str
    label_map: NDArray[Any]
    value: int
    prompt: ObjectPrompt

    def truth(self) -> NDArray[np.bool_]:
        """Returns the object's mask in the slices that are segmented."""
        first, last = self.prompt.z_range
        return np.asarray(self.label_map[first : last + 1] == self.value)


def find_targets(case: Case, *, full: bool, margin_px: float, regions: bool) -> list[Target]:
    """Returns the objects of a case by map and label id, then the regions.

    Args:
        case: Labelled case; one without labels has no objects.
        full: Segment all slices instead of those from the object's first to its last.
        margin_px: Margin around prompt boxes in pixels of a 1024 input.
        regions: Whether regions are objects beside the labels that make them up; those without a
            voxel are left out.
    """
    targets = []
    for label_map in case.label_maps:
        for prompt in _prompts(label_map, full, margin_px):
            label = prompt.object_id
            name = case.label_names.get(label, str(label))
            targets.append(Target(label, name, label_map, label, prompt))
    if regions:
        targets += _region_targets(case, full, margin_px)
    return targets


def _region_targets(case: Case, full: bool, margin_px: float) -> Iterator[Target]:
    """Yields the regions that have voxels."""
    for number, (name, labels) in enumerate(case.regions.items(), start=1):
        inside = np.zeros(case.image.shape[:3], np.uint8)
        for label_map in case.label_maps:
            inside |= np.isin(label_map, labels)
        for prompt in _prompts(inside, full, margin_px):
            yield Target(-number, name, inside, 1, replace(prompt, object_id=-number))


def _prompts(
    label_map: Integer[np.ndarray, "z h w"], full: bool, margin_px: float
) -> Iterator[ObjectPrompt]:
    """Yields the prompt of every label of a map in ascending order."""
    from scipy.ndimage import find_objects

    depth, height, width = label_map.shape
    input_hw = (MARGIN_REFERENCE_SIZE, MARGIN_REFERENCE_SIZE)
    for label, box in enumerate(find_objects(label_map), start=1):
        if box is None:
            continue
        first, last = box[0].start, box[0].stop - 1
        inside = label_map[box] == label
        labelled = first + np.flatnonzero(inside.any(axis=(1, 2)))
        frame = middle_slice([int(z) for z in labelled])
        tight = tight_box(np.asarray(label_map[frame] == label))
        scaled = scale_boxes(tight[None], (height, width), input_hw)[0]
        padded = pad_box(scaled, margin_px, input_hw)
        yield ObjectPrompt.from_box(
            object_id=label,
            frame=frame,
            box_xyxy=scale_boxes(padded[None], input_hw, (height, width))[0],
            z_range=(0, depth - 1) if full else (first, last),
        )


def labelled_prompts(
    label_map: Integer[np.ndarray, "z h w"], margin_px: float = 5.0
) -> list[ObjectPrompt]:
    """Returns the prompt that stands for each label: the box of its middle slice, its z range."""
    return list(_prompts(label_map, False, margin_px))


def tight_box(mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, " 4"]:
    """Returns the box of a mask that has pixels."""
    box = mask_to_box(mask)
    assert box is not None, "only masks with pixels are prompted"
    return box
