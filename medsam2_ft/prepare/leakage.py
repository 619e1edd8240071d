"""Cases that must not be in different splits: of one patient, or with the same image."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.manifest import Record
from medsam2_ft.prepare.splits import Split


def image_sha256(image: NDArray[Any]) -> str:
    """Returns the checksum of an image's values and shape, the same for all that look alike."""
    digest = hashlib.sha256(repr((image.shape, image.dtype.str)).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def families(records: Iterable[Record]) -> dict[str, str]:
    """Puts cases together that share a group or an image, directly or through others.

    Args:
        records: Cases of an output folder.

    Returns:
        For every case the name of its family: the smallest of its groups' names.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    listed = list(records)
    for record in listed:
        for key in _links(record):
            first, second = sorted((root(f"case {record.name}"), root(key)))
            parent[second] = first
    groups: dict[str, list[str]] = defaultdict(list)
    for record in listed:
        groups[root(f"case {record.name}")].append(record.group)
    return {record.name: min(groups[root(f"case {record.name}")]) for record in listed}


def _links(record: Record) -> list[str]:
    image = [f"image {record.image_sha256}"] if record.image_sha256 else []
    return [f"group {record.group}", *image]


def same_images(records: Iterable[Record]) -> list[list[str]]:
    """Returns the names of written cases with equal images, a sorted list per image."""
    by_image: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if record.status == "written" and record.image_sha256:
            by_image[record.image_sha256].append(record.name)
    return sorted(sorted(names) for names in by_image.values() if len(names) > 1)


def check_no_leak(
    split_of: Mapping[str, Split], records: Mapping[str, Record], where: str, remedy: str
) -> dict[str, Split]:
    """Makes sure that no family of cases is spread over splits.

    Args:
        split_of: Split of every case that has one.
        records: All cases.
        where: What gave the splits, for the message.
        remedy: What to do about it.

    Returns:
        The split of every family that has one.

    Raises:
        UserError: Two cases of one patient, or with the same image, are apart.
    """
    family_of = families(records.values())
    first: dict[str, str] = {}
    for name in sorted(split_of):
        other = first.setdefault(family_of[name], name)
        if split_of[other] != split_of[name]:
            raise UserError(
                f"{where}: {other} is in {split_of[other]} and {name} in {split_of[name]}, but "
                f"{_bond(records[other], records[name])}; a model would be validated on what it "
                f"has seen: {remedy}"
            )
    return {family: split_of[name] for family, name in first.items()}


def _bond(one: Record, other: Record) -> str:
    if one.group == other.group:
        return f"they are cases of the same group ({one.group})"
    if one.image_sha256 and one.image_sha256 == other.image_sha256:
        return "their images are identical"
    return "other cases of their groups, or equal images, link them"
