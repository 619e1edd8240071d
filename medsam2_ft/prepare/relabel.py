"""Which label ids stay, and what they become: keep, drop and merge over all maps of a case."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.pack import pack_masks
from medsam2_ft.prepare.cleanup import Cleanup, Drop, voxel_counts

Maps = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Renumbered:
    """Labels after keep, drop and merge.

    Attributes:
        maps: The maps; the given ones where nothing changes.
        drops: What became background.
        merged: New id -> ids that it was made of, for those that occur.
    """

    maps: Maps
    drops: tuple[Drop, ...] = ()
    merged: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


def renumber(maps: Maps, rules: Cleanup) -> Renumbered:
    """Applies ``keep``, ``drop_labels`` and ``merge``.

    Args:
        maps: ``(z, y, x)`` unsigned maps, 0 = background; not changed.
        rules: See ``Cleanup``; the other rules play no part.

    Returns:
        Maps in which every id occurs once. Where parts of a merged label lie in several maps, all
        labels are packed anew.

    Raises:
        UserError: A merged label gets an id that another label has.
    """
    if rules.keep is None and not rules.drop_labels and not rules.merge:
        return Renumbered(maps)
    counts = [voxel_counts(label_map) for label_map in maps]
    drops = tuple(_drops(counts, rules))
    present = {label for held in counts for label in held} - {drop.label for drop in drops}
    merged = _merged(present, rules.merge)
    becomes = {old: new for new, ids in merged.items() for old in ids}
    target = {drop.label: 0 for drop in drops} | becomes
    changed = tuple(
        _mapped(label_map, target, held) for label_map, held in zip(maps, counts, strict=True)
    )
    after = [{target.get(label, label) for label in held} - {0} for held in counts]
    if sum(map(len, after)) > len(set().union(*after)):
        changed = _repacked(changed, sorted(set().union(*after)))
    return Renumbered(changed, drops, merged)


def _drops(counts: Iterable[Mapping[int, int]], rules: Cleanup) -> Iterator[Drop]:
    for held in counts:
        for label, voxels in held.items():
            if label in rules.drop_labels:
                yield Drop("drop_labels", label, 1, voxels)
            elif rules.keep is not None and label not in rules.keep:
                yield Drop("keep", label, 1, voxels)


def _merged(present: set[int], merge: Mapping[int, Sequence[int]]) -> dict[int, tuple[int, ...]]:
    """The merges whose ids occur, after a look at what else has the new id."""
    sources = {label for ids in merge.values() for label in ids}
    found = {}
    for new, ids in merge.items():
        held = tuple(label for label in ids if label in present)
        if held and new in present - sources:
            raise UserError(
                f"merge makes label {new}, which the file uses for another label; list it too "
                f"({new}: {sorted([new, *ids])}), drop it, or choose another id"
            )
        if held:
            found[new] = held
    return found


def _mapped(
    label_map: NDArray[Any], target: Mapping[int, int], held: Mapping[int, int]
) -> NDArray[Any]:
    """One map with its ids replaced, slice by slice; itself where none of them occurs in it."""
    if not target.keys() & held.keys():
        return label_map
    lookup = np.arange(max(held) + 1)
    for old in target.keys() & held.keys():
        lookup[old] = target[old]
    highest = max(int(lookup[label]) for label in held)
    lookup = np.minimum(lookup, highest).astype(np.uint8 if highest <= 255 else np.uint16)
    result = np.empty(label_map.shape, lookup.dtype)
    for plane, new in zip(label_map, result, strict=True):
        np.take(lookup, plane, out=new)
    return result


def _repacked(maps: Maps, ids: Sequence[int]) -> Maps:
    shape = maps[0].shape

    def masks() -> Iterator[tuple[int, NDArray[np.bool_]]]:
        for label in ids:
            mask = np.zeros(shape, np.bool_)
            for label_map in maps:
                mask |= label_map == label
            yield label, mask

    return pack_masks((shape[0], shape[1], shape[2]), masks())
