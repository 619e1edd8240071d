"""The labels of one case: read, put on the image's grid, cleaned, named."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io import HDF5_SUFFIXES, LabelValues, file_suffix, read_labels
from medsam2_ft.prepare.cleanup import Cleanup, Drop, clean_map, voxel_counts
from medsam2_ft.prepare.grid import on_image_grid
from medsam2_ft.prepare.pairing import Pair
from medsam2_ft.prepare.relabel import renumber
from medsam2_ft.prepare.settings import Settings
from medsam2_ft.types import Case, LabelVolume, Volume


class NoLabelsError(Exception):
    """The case has nothing to learn from; the message says why."""


@dataclass(frozen=True)
class Cleaned:
    """Labels after the clean-up.

    Attributes:
        maps: The maps that still hold labels.
        counts: Voxels of every id, per map.
        drops: What was removed.
        merged: New ids -> ids that they were made of.
        instances: New ids of every label that was split.
    """

    maps: tuple[NDArray[Any], ...]
    counts: tuple[Mapping[int, int], ...]
    drops: tuple[Drop, ...] = ()
    merged: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    instances: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def present(self) -> set[int]:
        """Ids that occur."""
        return {label for counts in self.counts for label in counts}

    @property
    def changed(self) -> bool:
        """Whether any label differs from the file's."""
        return bool(self.drops or self.merged or self.instances)


def expect_labels(pair: Pair, stored: Case | None) -> None:
    """Raises ``NoLabelsError`` where it is clear that there are none, before much is read."""
    if pair.label is not None or file_suffix(pair.image.path) in HDF5_SUFFIXES:
        return
    if stored is None:
        raise NoLabelsError("no label file was found")
    if not stored.label_maps:
        raise NoLabelsError("no label file was found, and the npz holds no labels")


def labels_on_grid(
    pair: Pair, settings: Settings, stored: Case | None, image: Volume
) -> LabelVolume:
    """Reads the labels and puts them on the grid of the image.

    Args:
        pair: Source files.
        settings: How.
        stored: The npz case that the image file is, if it is one.
        image: The image.

    Raises:
        UserError: The labels cannot be read, or do not lie within the image.
        NoLabelsError: There is nothing but background.
    """
    if pair.label is None and stored is not None:
        labels = LabelVolume(stored.label_maps, stored.label_names, image.geometry)
    else:
        file = pair.label or pair.image  # an HDF5 file holds both
        values = _values(pair, settings) if file.source.kind == "parts" else settings.values
        labels = read_labels(file.source, values, like=image)
        labels = _expect_any(labels)
        labels = on_image_grid(image, labels, str(pair.image.path), str(file.path))
    return _expect_any(labels)


def _expect_any(labels: LabelVolume) -> LabelVolume:
    if not any(plane.any() for label_map in labels.maps for plane in label_map):
        raise NoLabelsError("the label file is empty: background only")
    return labels


def _values(pair: Pair, settings: Settings) -> LabelValues:
    """The values for several files: the names of label ids are the names of the files."""
    if "objects" in (pair.parts, settings.values.parts):
        return replace(settings.values, parts="objects")
    names = settings.label_names
    if not names:
        return settings.values  # its part_names hold the names of all cases
    in_order = tuple(names.get(label, "") for label in range(1, max(names) + 1))
    return replace(settings.values, part_names=in_order)


def rules_for(rules: Cleanup, file_names: Mapping[int, str], where: str) -> Cleanup:
    """Puts ids in place of the names of ``ids_by_name``.

    Args:
        rules: The rules.
        file_names: Names of the file's labels.
        where: The file, for messages.

    Raises:
        UserError: The file names no label.
        NoLabelsError: It names none of those that are wanted.
    """
    if not rules.ids_by_name:
        return rules
    if not file_names:
        raise UserError(
            f"{where}: does not name its labels, so that ids_by_name cannot choose; use keep and "
            "merge with ids"
        )
    merge: dict[int, tuple[int, ...]] = {}
    for label, name in sorted(file_names.items()):
        new = rules.ids_by_name.get(name.strip())
        if new is not None:
            merge[new] = (*merge.get(new, ()), label)
    if not merge:
        wanted, held = ", ".join(rules.ids_by_name), ", ".join(sorted(set(file_names.values())))
        raise NoLabelsError(f"no label is named {wanted}; there are {held}")
    kept = tuple(label for ids in merge.values() for label in ids)
    return replace(rules, keep=kept, merge=merge, ids_by_name={})


def clean(maps: tuple[NDArray[Any], ...], rules: Cleanup) -> Cleaned:
    """Applies all rules to the maps of a case; maps that end up empty are left out.

    Raises:
        UserError: As ``renumber`` and ``clean_map``.
    """
    numbered = renumber(maps, rules)
    taken: set[int] = set()
    if rules.instances_of:
        taken = {label for label_map in numbered.maps for label in voxel_counts(label_map)}
    results = [clean_map(label_map, rules, taken) for label_map in numbered.maps]
    counted = [(cleaned, voxel_counts(cleaned)) for cleaned, _, _ in results]
    kept = [(cleaned, counts) for cleaned, counts in counted if counts]
    return Cleaned(
        maps=tuple(cleaned for cleaned, _ in kept),
        counts=tuple(counts for _, counts in kept),
        drops=(*numbered.drops, *(drop for _, drops, _ in results for drop in drops)),
        merged=numbered.merged,
        instances={label: ids for _, _, split in results for label, ids in split.items()},
    )


def names_of(file_names: Mapping[int, str], settings: Settings, cleaned: Cleaned) -> dict[int, str]:
    """Returns names of the ids that occur.

    The settings' names win over those of the file. A merged label without a name of its own gets
    the names of what it was made of; all instances of a label share its name.
    """
    names = {k: name for k, name in file_names.items() if k not in _merged_away(cleaned)}
    for new, ids in cleaned.merged.items():
        parts = dict.fromkeys(file_names[label] for label in ids if label in file_names)
        if parts:
            names[new] = " + ".join(parts)
    names |= settings.label_names
    for label, ids in cleaned.instances.items():
        names |= dict.fromkeys(ids, names.get(label, f"label {label}"))
    return {label: names[label] for label in sorted(cleaned.present & set(names))}


def regions_of(
    file_regions: Mapping[str, tuple[int, ...]], settings: Settings, cleaned: Cleaned
) -> dict[str, tuple[int, ...]]:
    """Returns regions by the ids that occur, instances in place of their label.

    Empty regions are left out, and those of the file that hold only a part of a merged label.
    """
    regions = {}
    for name, ids in file_regions.items():
        members = set(ids)
        whole = [new for new, parts in cleaned.merged.items() if members >= set(parts)]
        touched = {part for parts in cleaned.merged.values() for part in parts} & members
        if touched == {part for new in whole for part in cleaned.merged[new]}:
            regions[name] = tuple(sorted((members - touched) | set(whole)))
    result = {}
    for name, ids in {**regions, **settings.regions}.items():
        split = {new for label in ids for new in cleaned.instances.get(label, (label,))}
        if split & cleaned.present:
            result[name] = tuple(sorted(split & cleaned.present))
    return result


def _merged_away(cleaned: Cleaned) -> set[int]:
    return {label for ids in cleaned.merged.values() for label in ids}
