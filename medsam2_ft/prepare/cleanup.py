"""Label clean-up: drop small objects, split a label into instances; counts every drop.

The rules are those of the paper's recipe (MedSAM's pre-processing script, in its order), and all
of them are off by default. Ids are dropped and merged before, by ``relabel``.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import label_ids

INSTANCE_BASE = 256
"""Instance k (from 1) of label i gets the id ``i * INSTANCE_BASE + k``, which fits uint16."""

DROP_RULES = ("keep", "drop_labels", "min_voxels_3d", "min_pixels_2d")
"""Rules that make background of labels, in their order."""

Connectivity = Literal[8, 26]


@dataclass(frozen=True)
class Cleanup:
    """What to change in the labels; the defaults change nothing.

    Attributes:
        drop_labels: Ids that become background.
        keep: Ids that stay, all others become background; None: all stay.
        merge: New id -> the ids that it is made of, after those that go are gone.
        ids_by_name: Name in the file -> id that its label gets, in place of ``keep``,
            ``drop_labels`` and ``merge``; labels of other names become background.
        min_voxels_3d: Smallest number of voxels that a 26-connected object of one label may have.
        min_pixels_2d: Smallest number of pixels that an 8-connected part of a label may have in a
            slice.
        instances_of: Ids whose 26-connected objects become labels of their own.
    """

    drop_labels: tuple[int, ...] = ()
    keep: tuple[int, ...] | None = None
    merge: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    ids_by_name: Mapping[str, int] = field(default_factory=dict)
    min_voxels_3d: int = 0
    min_pixels_2d: int = 0
    instances_of: tuple[int, ...] = ()


@dataclass(frozen=True)
class Drop:
    """What one rule removed from one label.

    Attributes:
        rule: One of ``DROP_RULES``.
        label: The id as it was in the source.
        objects: Number of connected objects (for ``min_pixels_2d``: parts in slices) that went;
            1 for a label that was dropped as a whole.
        voxels: Number of voxels that became background.
    """

    rule: str
    label: int
    objects: int
    voxels: int


def clean_map(
    label_map: NDArray[Any], rules: Cleanup, taken: Collection[int] = ()
) -> tuple[NDArray[Any], list[Drop], dict[int, tuple[int, ...]]]:
    """Applies the rules about objects to one label map: size in 3D, instances, size in slices.

    Ids that stay, go or join are the matter of ``relabel``, which comes before.

    Args:
        label_map: ``(z, y, x)`` unsigned, 0 = background; not changed.
        rules: What to do.
        taken: Ids of the case's other maps, which instances must not get.

    Returns:
        The new map (``label_map`` itself where no such rule is on), what was dropped, and for every
        label of ``instances_of`` that occurs the ids of its instances, largest first.

    Raises:
        UserError: A label cannot be split into instances (see ``split_instances``).
    """
    if max(rules.min_voxels_3d, rules.min_pixels_2d) < 2 and not rules.instances_of:
        return label_map, [], {}
    result = label_map.copy()
    drops = []
    if rules.min_voxels_3d > 1:
        drops += _drop_small(result, "min_voxels_3d", rules.min_voxels_3d, connectivity=26)
    result, instances = split_instances(result, rules.instances_of, taken)
    if rules.min_pixels_2d > 1:
        source = {new: old for old, ids in instances.items() for new in ids}
        found = [
            drop
            for plane in result
            for drop in _drop_small(plane, "min_pixels_2d", rules.min_pixels_2d, connectivity=8)
        ]
        drops += _merged(found, source)
    return result, drops, instances


def _drop_small(
    label_map: NDArray[Any], rule: str, minimum: int, *, connectivity: Connectivity
) -> list[Drop]:
    """Sets connected objects of one label with fewer than ``minimum`` voxels to 0, in place."""
    if not label_map.any():
        return []
    components, sizes = _components(label_map, connectivity)
    small = sizes < minimum
    small[0] = False
    if not small.any():
        return []
    mask = small[components]
    pairs = np.unique(np.stack([components[mask], label_map[mask]]).astype(np.int64), axis=1)
    label_map[mask] = 0
    labels = pairs[1]
    return [
        Drop(
            rule,
            int(label),
            int((labels == label).sum()),
            int(sizes[pairs[0, labels == label]].sum()),
        )
        for label in np.unique(labels)
    ]


def _components(
    label_map: NDArray[Any], connectivity: Connectivity
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Connected objects (two labels never join) and their sizes; index 0 is the background."""
    import cc3d

    contiguous = np.ascontiguousarray(label_map)
    components = cc3d.connected_components(contiguous, connectivity=connectivity)
    sizes = cc3d.statistics(components, no_slice_conversion=True)["voxel_counts"]
    return components, sizes.astype(np.int64)


def _merged(drops: Sequence[Drop], source: Mapping[int, int]) -> list[Drop]:
    """Adds up the drops of all slices per label; instances count for the label they came from."""
    totals: dict[tuple[str, int], tuple[int, int]] = {}
    for drop in drops:
        key = drop.rule, source.get(drop.label, drop.label)
        objects, voxels = totals.get(key, (0, 0))
        totals[key] = objects + drop.objects, voxels + drop.voxels
    return [Drop(rule, label, *total) for (rule, label), total in sorted(totals.items())]


def split_instances(
    label_map: NDArray[Any], labels: Sequence[int], taken: Collection[int] = ()
) -> tuple[NDArray[Any], dict[int, tuple[int, ...]]]:
    """Gives every 26-connected object of the given labels an id of its own.

    Args:
        label_map: ``(z, y, x)`` unsigned; not changed.
        labels: Ids to split; those that do not occur are passed over.
        taken: Ids of other maps, which instances must not get.

    Returns:
        The map (as uint16 where something was split) and for every split label its new ids
        ``label * 256 + k``, k from 1 in order of falling size.

    Raises:
        UserError: A label above 255, one with more than 255 objects, or a new id that another
            label has already.
    """
    result = label_map
    instances: dict[int, tuple[int, ...]] = {}
    for label in labels:
        mask = label_map == label
        if not mask.any():
            continue
        # not bool: cc3d 4.1 reserves too few labels for a bool array with odd sides and raises
        components, sizes = _components(mask.view(np.uint8), connectivity=26)
        order = np.argsort(-sizes[1:], kind="stable") + 1
        ids = tuple(label * INSTANCE_BASE + k for k in range(1, len(order) + 1))
        _check_instances(label, ids, {*label_ids(label_map), *taken})
        lookup = np.zeros(len(sizes), np.uint16)
        lookup[order] = ids
        if not instances:
            result = label_map.astype(np.uint16)
        for plane, inside, numbers in zip(result, mask, components, strict=True):
            np.copyto(plane, lookup[numbers], where=inside)
        instances[label] = ids
    return result, instances


def _check_instances(label: int, ids: Sequence[int], taken: Collection[int]) -> None:
    if label >= INSTANCE_BASE:
        raise UserError(
            f"label {label} cannot be split into instances: only ids below {INSTANCE_BASE} can"
        )
    if len(ids) >= INSTANCE_BASE:
        raise UserError(
            f"label {label} has {len(ids)} separate objects, more than {INSTANCE_BASE - 1}; drop "
            "specks with --min_voxels_3d or leave it out of --instances_of"
        )
    if not set(ids).isdisjoint(taken):
        raise UserError(
            f"label {label} cannot be split into instances: ids {ids[0]} to {ids[-1]} are taken by "
            "other labels of this file"
        )


def voxel_counts(label_map: NDArray[Any]) -> dict[int, int]:
    """Returns the number of voxels of every label id, ascending, without the background.

    Slice by slice, so that no copy of the volume in a wider type is made.
    """
    totals: dict[int, int] = {}
    for label, count in _slice_counts(label_map):
        totals[label] = totals.get(label, 0) + count
    return dict(sorted(totals.items()))


def _slice_counts(label_map: NDArray[Any]) -> Iterator[tuple[int, int]]:
    for plane in label_map:
        if plane.any():
            # bincount is many times faster than unique, which sorts
            counts = np.bincount(plane.ravel())
            yield from ((int(label), int(counts[label])) for label in counts.nonzero()[0] if label)
