"""Prompts of one or many cases from a JSON or CSV file."""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medsam2_ft.entry import closest_name
from medsam2_ft.errors import UserError
from medsam2_ft.segmenting.given import (
    Given,
    GivenKind,
    Units,
    World,
    checked_label,
    checked_object,
)

FIELDS = ("case", "object", "name", "kind", "coordinates", "slice", "label", "first", "last")
_KINDS: Mapping[tuple[str, int], GivenKind] = {
    ("box", 4): "box2d",
    ("box", 6): "box3d",
    ("point", 2): "point2d",
    ("point", 3): "point3d",
}
_COUNTS = {"box": "4 or 6", "point": "2 or 3"}
_LARGEST_BYTES = 1 << 26

_Entry = tuple[str, Mapping[str, Any]]  # where it stands, and what it says


def read_prompt_file(path: Path, units: Units, world: World) -> list[Given]:
    """Reads prompts.

    A JSON file holds a list of entries, or ``{"units": ..., "world": ..., "prompts": [...]}``. An
    entry has ``kind`` (box, point) and ``coordinates`` (a list of numbers), and may have ``case``,
    ``object`` (1 where it is missing), ``name``, ``slice``, ``label`` (of a point), ``first`` and
    ``last`` (the slices to segment). A CSV file has these as columns; its coordinates are
    separated by blanks.

    Args:
        path: File ending in .json or .csv.
        units: What coordinates count, where the file does not say it.
        world: Whose axes they follow, in the same way.

    Returns:
        At least one.

    Raises:
        UserError: Missing, another format, or an entry that says too little, too much or nonsense.
    """
    text = _text(path)
    stated: Mapping[str, Any] = {}
    if path.suffix.lower() == ".json":
        entries, stated = _json_entries(path, text)
    elif path.suffix.lower() == ".csv":
        entries = list(_csv_entries(path, text))
    else:
        raise UserError(f"{path}: prompts are read from .json and .csv files; save it as one")
    units = _choice(path, stated, "units", units, ("voxels", "mm"))
    world = _choice(path, stated, "world", world, ("lps", "ras"))
    found = [_given(where, entry, units, world) for where, entry in entries]
    if not found:
        raise UserError(f"{path}: holds no prompt; add one entry for each box or point")
    return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise UserError(
                f"{path}: has more than {_LARGEST_BYTES >> 20} MB; it is no prompt file"
            )
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text; save it as such") from error


def _json_entries(path: Path, text: str) -> tuple[list[_Entry], Mapping[str, Any]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error})") from error
    stated: Mapping[str, Any] = {}
    if isinstance(content, dict):
        _check_keys(str(path), content, ("units", "world", "prompts"))
        stated, content = content, content.get("prompts")
    if not isinstance(content, list):
        raise UserError(f"{path}: holds no list of prompts; see docs/segment.md")
    entries: list[_Entry] = []
    for number, entry in enumerate(content, start=1):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: entry {number} is no object with kind and coordinates")
        entries.append((f"{path}: entry {number}", entry))
    return entries, stated


def _csv_entries(path: Path, text: str) -> Iterator[_Entry]:
    try:
        reader = csv.DictReader(text.splitlines(), strict=True, skipinitialspace=True)
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            if None in row or None in row.values():
                raise UserError(f"{where}: has more or fewer cells than the header")
            entry = {key.strip(): cell.strip() for key, cell in row.items() if cell.strip()}
            if entry:
                yield where, entry
    except csv.Error as error:
        raise UserError(f"{path}: is not CSV ({error})") from error


def _given(where: str, entry: Mapping[str, Any], units: Units, world: World) -> Given:
    _check_keys(where, entry, FIELDS)
    word = str(entry.get("kind", ""))
    if word not in _COUNTS:
        raise UserError(f"{where}: kind {word!r} is neither box nor point")
    values = _coordinates(where, entry.get("coordinates"))
    if (word, len(values)) not in _KINDS:
        raise UserError(
            f"{where}: has {len(values)} coordinates; a {word} has {_COUNTS[word]} of them"
        )
    place = _number(where, entry, "slice")
    if place is not None and len(values) in (3, 6):
        raise UserError(f"{where}: its coordinates say the slice already; leave one of them out")
    label = _number(where, entry, "label")
    if label is not None and word == "box":
        raise UserError(f"{where}: a box has no label; leave it out")
    first, last = _integer(where, entry, "first"), _integer(where, entry, "last")
    if (first is None) != (last is None):
        raise UserError(f"{where}: give both first and last, or none of them")
    return Given(
        where,
        _KINDS[word, len(values)],
        values,
        checked_object(
            where, 1 if (number := _integer(where, entry, "object")) is None else number
        ),
        place,
        1 if label is None else checked_label(where, label),
        " ".join(str(entry.get("name") or "").split()),
        str(entry.get("case") or ""),
        None if first is None or last is None else (first, last),
        units,
        world,
    )


def _check_keys(where: str, entry: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in entry:
        if key not in known:
            closest = closest_name(key, known)
            hint = f"did you mean {closest}?" if closest else f"known are {', '.join(known)}"
            raise UserError(f"{where}: {key!r} is not known; {hint}")


def _choice(path: Path, stated: Mapping[str, Any], key: str, default: Any, known: Any) -> Any:
    found = stated.get(key, default)
    if found not in known:
        raise UserError(f"{path}: {key} {found!r} is none of {', '.join(known)}")
    return found


def _coordinates(where: str, given: Any) -> tuple[float, ...]:
    parts = given.split() if isinstance(given, str) else given
    if not isinstance(parts, list) or any(isinstance(part, bool) for part in parts):
        raise UserError(f"{where}: coordinates are missing or no list of numbers")
    try:
        values = tuple(float(part) for part in parts)
    except (TypeError, ValueError, OverflowError):
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise UserError(f"{where}: its coordinates are not finite numbers")
    return values


def _number(where: str, entry: Mapping[str, Any], key: str) -> float | None:
    given = entry.get(key)
    if given is None:
        return None
    (value,) = _coordinates(f"{where}: {key}", [given])
    return value


def _integer(where: str, entry: Mapping[str, Any], key: str) -> int | None:
    value = _number(where, entry, key)
    if value is not None and value != int(value):
        raise UserError(f"{where}: {key} {value:g} is no whole number")
    return None if value is None else int(value)
