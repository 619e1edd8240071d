"""Turns an image file and a label file into a case."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import apply_rule, rule_for_modality
from medsam2_ft.io import file_suffix, read_labels, read_volume
from medsam2_ft.io.npz import read_case
from medsam2_ft.prepare.cleanup import Cleanup, Drop, clean_map, voxel_counts
from medsam2_ft.prepare.grid import check_same_grid
from medsam2_ft.prepare.pairing import Pair
from medsam2_ft.prepare.settings import Settings
from medsam2_ft.types import Case, Geometry, IntensityRule, LabelVolume, Volume

MIN_GRAY_LEVELS = 8
"""A windowed image that spans fewer gray levels is refused: the window misses its values."""

Instances = Mapping[int, tuple[int, ...]]
"""New ids of every label that was split."""


class NoLabelsError(Exception):
    """The case has nothing to learn from; the message says why."""


@dataclass(frozen=True)
class _Cleaned:
    """Labels after the clean-up.

    Attributes:
        maps: The maps that still hold labels.
        counts: Voxels of every id, per map.
        drops: What was removed.
        instances: Labels that were split.
    """

    maps: tuple[NDArray[Any], ...]
    counts: tuple[Mapping[int, int], ...]
    drops: tuple[Drop, ...]
    instances: Instances

    @property
    def present(self) -> set[int]:
        """Ids that occur."""
        return {label for counts in self.counts for label in counts}


def make_case(pair: Pair, settings: Settings) -> tuple[Case, dict[str, Any]]:
    """Reads and converts one case, without writing it.

    Args:
        pair: Source files.
        settings: How.

    Returns:
        The case, and the fields of its ``Record`` that describe it.

    Raises:
        UserError: Bad input.
        NoLabelsError: The case has no labels.
    """
    stored = _stored_case(pair, settings)
    labels = _labels(pair, stored)
    if not any(label_map.any() for label_map in labels.maps):
        raise NoLabelsError("the label file is empty: background only")
    image, rule, notes = _image(pair, settings, stored, labels)
    cleaned = _clean(labels.maps, settings.cleanup)
    if not cleaned.maps:
        raise NoLabelsError("the label clean-up left nothing")
    case = Case(
        name=pair.name,
        image=image.array,
        label_maps=cleaned.maps,
        geometry=image.geometry,
        modality=settings.modality,
        label_names=_names(labels, settings, cleaned),
        regions=_regions(stored, settings, cleaned),
        intensity=rule,
    )
    if stored is not None and stored.boxes is not None:
        if pair.label is None and not cleaned.drops and not cleaned.instances:
            case = replace(case, boxes=stored.boxes, box_labels=stored.box_labels)
        else:
            notes.append("boxes stored with the case are left out, for its labels have changed")
    return case, _details(case, rule, cleaned, notes)


def _stored_case(pair: Pair, settings: Settings) -> Case | None:
    """The npz case that the image file is, if it is one."""
    if file_suffix(pair.image.path) != ".npz":
        if pair.label is None:
            raise NoLabelsError("no label file was found")
        return None
    if settings.window is not None:
        raise UserError(
            f"{pair.image.path}: npz images are 0-255 already, so that --window {settings.window} "
            "cannot apply; leave it out, or prepare the original volumes"
        )
    case = read_case(pair.image.path)
    if pair.label is None and not case.label_maps:
        raise NoLabelsError("no label file was found, and the npz holds no labels")
    return case


def _labels(pair: Pair, stored: Case | None) -> LabelVolume:
    if pair.label is not None:
        return read_labels(pair.label.path)
    if stored is None:
        raise NoLabelsError("no label file was found")
    return LabelVolume(stored.label_maps, stored.label_names, stored.geometry)


def _image(
    pair: Pair, settings: Settings, stored: Case | None, labels: LabelVolume
) -> tuple[Volume, IntensityRule, list[str]]:
    """The 0-255 image on the checked grid, the rule that made it, and notes."""
    source = (
        read_volume(pair.image.path) if stored is None else Volume(stored.image, stored.geometry)
    )
    if pair.label is not None:
        check_same_grid(
            source,
            labels,
            str(pair.image.path),
            str(pair.label.path),
            world=not _without_geometry(pair, source.geometry, labels.geometry),
        )
    if stored is not None:
        notes = []
        if stored.modality not in (None, settings.modality):
            notes.append(
                f"the file says {stored.modality}; --modality {settings.modality} was used"
            )
        return source, stored.intensity or IntensityRule("keep"), notes
    rule, notes = _rule(source.array, settings)
    gray = apply_rule(source.array, rule)
    _check_contrast(gray, source.array, rule)
    return Volume(gray, source.geometry), rule, notes


def _without_geometry(pair: Pair, image: Geometry, label: Geometry) -> bool:
    """Whether one of the files is an npz that stores no geometry, so that shapes must suffice."""
    return any(
        file is not None and file_suffix(file.path) == ".npz" and geometry == Geometry()
        for file, geometry in ((pair.image, image), (pair.label, label))
    )


def _rule(array: NDArray[Any], settings: Settings) -> tuple[IntensityRule, list[str]]:
    if settings.modality == "CT" and settings.window is None and array.dtype == np.uint8:
        return IntensityRule("keep"), ["CT of type uint8 holds no Hounsfield units: kept as it is"]
    return rule_for_modality(settings.modality, settings.window, array.dtype), []


def _check_contrast(gray: NDArray[np.uint8], source: NDArray[Any], rule: IntensityRule) -> None:
    span = int(gray.max()) - int(gray.min())
    if span < (MIN_GRAY_LEVELS if rule.kind == "window" else 1):
        shown = f"window {rule.lower:g} to {rule.upper:g}" if rule.kind == "window" else rule.kind
        raise UserError(
            f"values {source.min():g} to {source.max():g} become a blank image under the "
            f"rule '{shown}'; check --modality and --window, or remove the file"
        )


def _clean(maps: Sequence[NDArray[Any]], rules: Cleanup) -> _Cleaned:
    """Cleans every map; maps that end up empty are left out."""
    taken: set[int] = set()
    if rules.instances_of:
        taken = {label for label_map in maps for label in voxel_counts(label_map)}
    results = [clean_map(label_map, rules, taken) for label_map in maps]
    counted = [(cleaned, voxel_counts(cleaned)) for cleaned, _, _ in results]
    kept = [(cleaned, counts) for cleaned, counts in counted if counts]
    return _Cleaned(
        maps=tuple(cleaned for cleaned, _ in kept),
        counts=tuple(counts for _, counts in kept),
        drops=tuple(drop for _, drops, _ in results for drop in drops),
        instances={label: ids for _, _, split in results for label, ids in split.items()},
    )


def _names(labels: LabelVolume, settings: Settings, cleaned: _Cleaned) -> dict[int, str]:
    """Names of the ids that occur; all instances of a label share its name."""
    names = {**labels.label_names, **settings.label_names}
    for label, ids in cleaned.instances.items():
        names |= dict.fromkeys(ids, names.get(label, f"label {label}"))
    return {label: names[label] for label in sorted(cleaned.present & set(names))}


def _regions(
    stored: Case | None, settings: Settings, cleaned: _Cleaned
) -> dict[str, tuple[int, ...]]:
    """Regions by the ids that occur, instances in place of their label; empty ones are left out."""
    regions = {**({} if stored is None else stored.regions), **settings.regions}
    result = {}
    for name, ids in regions.items():
        members = {new for label in ids for new in cleaned.instances.get(label, (label,))}
        if members & cleaned.present:
            result[name] = tuple(sorted(members & cleaned.present))
    return result


def _details(
    case: Case, rule: IntensityRule, cleaned: _Cleaned, notes: Sequence[str]
) -> dict[str, Any]:
    labels = [
        {"id": label, "name": case.label_names.get(label), "voxels": voxels, "map": number}
        for number, counts in enumerate(cleaned.counts)
        for label, voxels in counts.items()
    ]
    return {
        "shape": list(case.image.shape),
        "spacing_mm": list(case.geometry.spacing_mm),
        "intensity": asdict(rule),
        "labels": labels,
        "dropped": [asdict(drop) for drop in cleaned.drops],
        "notes": list(notes),
    }
