"""The labelled objects of a case, and the prompt that stands for each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.types import Case
from medsam2_ft.volume_prompts import Simulation, label_prompts


@dataclass(frozen=True)
class Target:
    """An object and the prompt that stands for it.

    Attributes:
        label: Id; for a region ``-1``, ``-2`` ... in the case's order.
        name: Of the label or region; the id as text where it has none.
        label_map: ``(z, y, x)`` map that holds the object.
        value: What it is there.
        prompt: Prompt on its middle slice, and the slices that are segmented.
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


def find_targets(
    case: Case, simulation: Simulation | None = None, *, regions: bool = False
) -> list[Target]:
    """Returns the objects of a case by map and label id, then the regions.

    Args:
        case: Labelled case; one without labels has no objects.
        simulation: How they are prompted; None is one box each, see ``Simulation``.
        regions: Whether regions are objects beside the labels that make them up; those without a
            voxel are left out.
    """
    how = simulation or Simulation()
    targets = []
    for label_map in case.label_maps:
        for prompt in label_prompts(label_map, how, case.name):
            label = prompt.object_id
            name = case.label_names.get(label, str(label))
            targets.append(Target(label, name, label_map, label, prompt))
    if regions:
        targets += _region_targets(case, how)
    return targets


def _region_targets(case: Case, how: Simulation) -> Iterator[Target]:
    """Yields the regions that have voxels."""
    for number, (name, labels) in enumerate(case.regions.items(), start=1):
        inside = np.zeros(case.image.shape[:3], np.uint8)
        for label_map in case.label_maps:
            inside |= np.isin(label_map, labels)
        for prompt in label_prompts(inside, how, case.name, ids={1: -number}):
            yield Target(-number, name, inside, 1, prompt)
