"""Sums up a folder of cases: per modality, per label, and as plain JSON types."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from medsam2_ft.inspection.facts import CaseFacts, LabelFacts
from medsam2_ft.inspection.folder import SPLITS, Unreadable
from medsam2_ft.inspection.problems import Problem
from medsam2_ft.types import IntensityRule

FORMAT = 1
UNKNOWN = "unknown"
NO_SPLIT = "no split"


@dataclass(frozen=True)
class Spread:
    """Smallest, middle and largest of some numbers."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class ModalitySummary:
    """The cases of one modality.

    Attributes:
        modality: Its name, or ``UNKNOWN``.
        cases: Number of cases.
        splits: Number of cases by split, or ``NO_SPLIT``.
        kinds: Number of cases by kind.
        colour: Number of cases in colour.
        depth: Slices or frames.
        height: Rows.
        width: Columns.
        slice_mm: Distance of slices; None where no case is 3D.
        pixel_mm: Larger side of a pixel; None where no case is 3D.
        gray_mean: Mean gray value.
        rules: Number of cases by intensity rule, in words.
    """

    modality: str
    cases: int
    splits: dict[str, int]
    kinds: dict[str, int]
    colour: int
    depth: Spread
    height: Spread
    width: Spread
    slice_mm: Spread | None
    pixel_mm: Spread | None
    gray_mean: Spread
    rules: dict[str, int]


@dataclass(frozen=True)
class LabelSummary:
    """One label over the cases of a modality: one name or, where there is no name, one id.

    Attributes:
        modality: Its name, or ``UNKNOWN``.
        name: The label's name.
        ids: The label ids that have this name; several where a label is split into instances.
        cases: Number of cases that hold it.
        objects: Number of label ids over all cases.
        slices: Number of slices that hold one of them, over all cases.
        voxels: Voxels of an object.
        volume_mm3: Volume of an object; None where no case is 3D.
    """

    modality: str
    name: str | None
    ids: tuple[int, ...]
    cases: int
    objects: int
    slices: int
    voxels: Spread
    volume_mm3: Spread | None


def summarize_modalities(cases: Sequence[CaseFacts]) -> list[ModalitySummary]:
    """Returns one summary per modality, by name."""
    groups: dict[str, list[CaseFacts]] = defaultdict(list)
    for case in cases:
        groups[case.modality or UNKNOWN].append(case)
    return [_modality(name, group) for name, group in sorted(groups.items())]


def _modality(name: str, cases: Sequence[CaseFacts]) -> ModalitySummary:
    volumes = [case for case in cases if case.kind == "3D"]
    splits = _counted(case.split or NO_SPLIT for case in cases)
    depth, height, width = (_spread(case.size_zyx[axis] for case in cases) for axis in range(3))
    return ModalitySummary(
        modality=name,
        cases=len(cases),
        splits={split: splits[split] for split in (*SPLITS, NO_SPLIT) if split in splits},
        kinds=_counted(case.kind for case in cases),
        colour=sum(case.colour for case in cases),
        depth=depth,
        height=height,
        width=width,
        slice_mm=_spread(case.spacing_mm[0] for case in volumes) if volumes else None,
        pixel_mm=_spread(max(case.spacing_mm[1:]) for case in volumes) if volumes else None,
        gray_mean=_spread(case.gray_mean for case in cases),
        rules=_counted(rule_text(case.intensity) for case in cases),
    )


def label_key(label: LabelFacts) -> tuple[str, int]:
    """Returns what labels of several cases have in common: the name or, without one, the id."""
    return (label.name, 0) if label.name is not None else ("", label.id)


def summarize_labels(cases: Sequence[CaseFacts]) -> list[LabelSummary]:
    """Returns one summary per modality and label, by modality and then by smallest id."""
    groups: dict[tuple[str, tuple[str, int]], list[tuple[str, LabelFacts]]] = defaultdict(list)
    for case in cases:
        for label in case.labels:
            groups[case.modality or UNKNOWN, label_key(label)].append((case.file, label))
    result = []
    for (modality, _), found in groups.items():
        labels = [label for _, label in found]
        volumes = [label.volume_mm3 for label in labels if label.volume_mm3 is not None]
        result.append(
            LabelSummary(
                modality=modality,
                name=labels[0].name,
                ids=tuple(sorted({label.id for label in labels})),
                cases=len({file for file, _ in found}),
                objects=len(labels),
                slices=sum(label.slices for label in labels),
                voxels=_spread(label.voxels for label in labels),
                volume_mm3=_spread(volumes) if volumes else None,
            )
        )
    return sorted(result, key=lambda summary: (summary.modality, summary.ids, summary.name or ""))


def _spread(values: Iterable[float]) -> Spread:
    """Of at least one number."""
    numbers = sorted(float(value) for value in values)
    return Spread(numbers[0], float(median(numbers)), numbers[-1])


def _counted(words: Iterable[str]) -> dict[str, int]:
    """Most frequent first."""
    return dict(Counter(words).most_common())


def rule_text(rule: IntensityRule | None) -> str:
    """Says in a few words how the gray values were made."""
    if rule is None:
        return "rule unknown"
    if rule.kind == "window":
        return f"window {rule.lower:g} to {rule.upper:g}"
    if rule.kind == "percentile":
        return f"percentiles {rule.lower:g} to {rule.upper:g}"
    return "minimum to maximum" if rule.kind == "minmax" else "0-255 as stored"


def to_json(
    folder: str,
    cases: Sequence[CaseFacts],
    unreadable: Sequence[Unreadable],
    problems: Sequence[Problem],
) -> dict[str, Any]:
    """Returns everything as plain JSON types.

    The keys are the attributes of ``CaseFacts``, ``Unreadable``, ``Problem``, ``ModalitySummary``
    and ``LabelSummary``; ``format`` grows when one of them changes its meaning.
    """
    return {
        "format": FORMAT,
        "folder": folder,
        "modalities": [asdict(summary) for summary in summarize_modalities(cases)],
        "labels": [asdict(summary) for summary in summarize_labels(cases)],
        "problems": [asdict(problem) for problem in problems],
        "unreadable": [asdict(bad) for bad in unreadable],
        "cases": [asdict(case) for case in cases],
    }
