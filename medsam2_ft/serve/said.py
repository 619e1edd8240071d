"""Prompts in JSON to prompts of the project."""

from collections.abc import Sequence

import numpy as np

from medsam2_ft.object_prompts import ObjectPrompt, SlicePrompt
from medsam2_ft.serve.history import Region
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.schemas import Edits, SliceSaid, StatelessPrompts
from medsam2_ft.serve.wire import mask_from_json


def slice_prompt(said: SliceSaid) -> SlicePrompt:
    """Reads what is said about one slice; whether it fits the slice is not looked at.

    Raises:
        Problem: 422, points and labels are not equally many.
        WireError: The mask is damaged.
    """
    if len(said.points) != len(said.labels):
        raise Problem(422, "points and labels are not equally many.", "Give a label to each.")
    mask = None
    if said.mask is not None:
        mask = mask_from_json(said.mask.model_dump())
    return SlicePrompt(
        said.index,
        None if said.box is None else np.array(said.box, np.float32),
        np.array(said.points, np.float32).reshape(-1, 2),
        np.array(said.labels, np.int32),
        mask,
    )


def object_prompts(asked: StatelessPrompts, count: int) -> list[ObjectPrompt]:
    """Reads the prompts of a stateless call on ``count`` slices.

    Raises:
        Problem: See ``slice_prompt``.
        WireError: See ``slice_prompt``.
    """
    return [
        ObjectPrompt(
            entry.object_id,
            tuple(slice_prompt(said) for said in entry.slices),
            (0, count - 1) if entry.range is None else (entry.range[0], entry.range[1]),
        )
        for entry in asked.objects
    ]


def drawn_regions(asked: Edits, shape: Sequence[int]) -> list[Region]:
    """Reads what a user drew.

    Raises:
        Problem: 422, a region that is larger than the volume.
        WireError: A mask is damaged.
    """
    regions = []
    for entry in asked.regions:
        if any(side > most for side, most in zip(entry.shape, shape, strict=True)):
            raise Problem(422, f"A region of {entry.shape} is larger than the volume.")
        mask = mask_from_json({"shape": entry.shape, "bits": entry.bits})
        k, j, i = entry.offset
        regions.append(Region(entry.object_id, (k, j, i), mask))
    return regions
