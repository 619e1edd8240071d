"""One job per case: its sources, its settings, and the group that it belongs to."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.build import Job
from medsam2_ft.prepare.folder import staged_path
from medsam2_ft.prepare.pairing import Pair
from medsam2_ft.prepare.settings import Settings


def make_jobs(
    pairs: Sequence[Pair], settings: Settings, images: Path, out: Path, group: str | None
) -> list[Job]:
    """Makes one job per pair.

    Args:
        pairs: Source files.
        settings: How cases are made.
        images: The image folder or file.
        out: Output folder.
        group: Pattern of the patient in a case's name; its first group if it has one.

    Raises:
        UserError: The pattern is invalid or does not match a name.
    """
    folder = (images.parent if images.is_file() else images).resolve()
    root = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    names = sorted({name for pair in pairs for name in _part_names(pair)})
    return [
        Job(
            pair,
            _for_parts(settings, pair, names),
            _group(pair, group),
            root,
            staged_path(out, pair.name),
        )
        for pair in pairs
    ]


def _part_names(pair: Pair) -> Sequence[str]:
    """Names of the labels that the files of a pair are, where they are a label each."""
    if pair.label is None or pair.label.source.kind != "parts" or pair.parts != "labels":
        return ()
    return pair.label.source.names


def _for_parts(settings: Settings, pair: Pair, names: Sequence[str]) -> Settings:
    """The settings of a label in parts: a name has the same id in every case of the input."""
    if pair.label is None or pair.label.source.kind != "parts":
        return settings
    values = replace(settings.values, parts=pair.parts)
    if pair.parts == "labels" and not values.part_names and not settings.label_names:
        values = replace(values, part_names=tuple(names))
    return replace(settings, values=values)


def _group(pair: Pair, pattern: str | None) -> str:
    if pattern is None:
        # Several images of one label file (sequences, channels) show the same patient.
        shared = pair.veil.path((pair.label or pair.image).relative).as_posix()
        return pair.patient or shared
    group = matched(pattern, pair.clear or pair.name)
    if group is None:
        raise UserError(f"--group {pattern!r} does not match the case {pair.clear}; correct it")
    return group if pair.veil.patients is None else pair.veil.patient(group)


def matched(pattern: str, name: str) -> str | None:
    """Returns the part of a name that tells the patient.

    Returns:
        What the pattern's first group matches, or the whole pattern; None where it does not match.

    Raises:
        UserError: The pattern is no regular expression.
    """
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise UserError(f"--group {pattern!r} is no regular expression ({error})") from error
    return None if match is None else match.group(1 if match.re.groups else 0)
