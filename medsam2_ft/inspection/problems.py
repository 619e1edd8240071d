"""What is wrong, or worth a look, in a folder of cases."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from medsam2_ft.inspection.facts import CaseFacts, LabelFacts
from medsam2_ft.inspection.folder import Unreadable

ProblemKind = Literal[
    "leak",
    "unreadable",
    "duplicate_name",
    "identical_image",
    "label_name_conflict",
    "unlabelled",
    "unknown_modality",
    "constant_image",
    "small_label",
    "one_slice_label",
    "empty_label",
    "anisotropy",
    "label_at_border",
]
MAX_ANISOTROPY = 5.0
_K = TypeVar("_K", bound=Hashable)


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        kind: What it is; these words stay the same.
        severity: ``error`` spoils training or evaluation, ``warning`` probably is a mistake,
            ``note`` may be meant so.
        files: The cases, by path below the folder.
        text: One sentence.
    """

    kind: ProblemKind
    severity: Literal["error", "warning", "note"]
    files: tuple[str, ...]
    text: str


def find_problems(
    cases: Sequence[CaseFacts], unreadable: Sequence[Unreadable], min_voxels: int
) -> list[Problem]:
    """Lists all findings, those that spoil most first.

    Args:
        cases: All cases that could be read.
        unreadable: All that could not.
        min_voxels: Labels with fewer voxels are reported.
    """
    found = [Problem("unreadable", "error", (bad.file,), bad.reason) for bad in unreadable]
    found += _identical_images(cases)
    found += _duplicate_names(cases)
    found += _name_conflicts(cases)
    for case in cases:
        found += _case_problems(case)
        for label in case.labels:
            found += _label_problems(case, label, min_voxels)
    order = {kind: position for position, kind in enumerate(ProblemKind.__args__)}  # type: ignore[attr-defined] # of a Literal
    return sorted(found, key=lambda problem: (order[problem.kind], problem.files))


def _grouped(cases: Sequence[CaseFacts], key: Callable[[CaseFacts], _K]) -> list[list[CaseFacts]]:
    """Groups of at least two cases with the same key."""
    groups: dict[_K, list[CaseFacts]] = defaultdict(list)
    for case in cases:
        groups[key(case)].append(case)
    return [group for group in groups.values() if len(group) > 1]


def _identical_images(cases: Sequence[CaseFacts]) -> Iterator[Problem]:
    for group in _grouped(cases, lambda case: case.image_sha256):
        files = tuple(case.file for case in group)
        splits = sorted({case.split for case in group if case.split is not None})
        if len(splits) > 1:
            text = f"the same image is in {' and in '.join(splits)}: scores on it mean nothing"
            yield Problem("leak", "error", files, text)
        else:
            yield Problem("identical_image", "warning", files, "have the same image")


def _duplicate_names(cases: Sequence[CaseFacts]) -> Iterator[Problem]:
    for group in _grouped(cases, lambda case: case.name):
        if len({case.split for case in group}) > 1:
            files = tuple(case.file for case in group)
            yield Problem("duplicate_name", "warning", files, "have one name in several splits")


def _name_conflicts(cases: Sequence[CaseFacts]) -> Iterator[Problem]:
    """Within a modality: across modalities the same id usually means something else."""
    named: dict[tuple[str | None, int], dict[str, list[str]]] = defaultdict(dict)
    for case in cases:
        for label in case.labels:
            if label.name is not None:
                named[case.modality, label.id].setdefault(label.name, []).append(case.file)
    for (modality, label_id), names in named.items():
        if len(names) > 1:
            listed = ", ".join(f"{name!r} in {len(files)}" for name, files in names.items())
            text = f"label {label_id} of {modality or 'unknown modality'} is {listed} cases"
            files = tuple(file for group in names.values() for file in group)
            yield Problem("label_name_conflict", "warning", files, text)


def _case_problems(case: CaseFacts) -> Iterator[Problem]:
    files = (case.file,)
    if not case.labels:
        yield Problem("unlabelled", "warning", files, "has no labels")
    if case.modality is None:
        yield Problem("unknown_modality", "warning", files, "does not say its modality")
    if case.gray_min == case.gray_max:
        text = f"every pixel of the image is {case.gray_min}"
        yield Problem("constant_image", "warning", files, text)
    for label in case.absent_labels:
        yield Problem("empty_label", "note", files, f"label {label} has a name and no voxel")
    ratio = max(case.spacing_mm) / min(case.spacing_mm)
    if case.kind == "3D" and ratio > MAX_ANISOTROPY:
        spacing = " x ".join(f"{value:.3g}" for value in case.spacing_mm)
        text = f"voxels of {spacing} mm (z, y, x) are {ratio:.1f} times as long as wide"
        yield Problem("anisotropy", "note", files, text)


def _label_problems(case: CaseFacts, label: LabelFacts, min_voxels: int) -> Iterator[Problem]:
    files = (case.file,)
    named = f"label {label.id}" if label.name is None else f"label {label.id} ({label.name})"
    if label.voxels < min_voxels:
        unit = "voxel" if case.kind == "3D" else "pixel"
        text = f"{named} has {label.voxels} {unit}{'' if label.voxels == 1 else 's'}"
        yield Problem("small_label", "warning", files, text)
    if case.kind == "3D" and label.slices == 1:
        text = f"{named} is in one slice of {case.size_zyx[0]}"
        yield Problem("one_slice_label", "note", files, text)
    if label.at_border:
        yield Problem("label_at_border", "note", files, f"{named} touches the edge of a slice")
