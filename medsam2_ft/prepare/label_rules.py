"""Label rules: a small YAML file that says what a data set's label values mean and which stay."""

import difflib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from medsam2_ft.errors import UserError
from medsam2_ft.io.label_values import AUTO, Colour, LabelValues
from medsam2_ft.prepare.cleanup import Cleanup
from medsam2_ft.prepare.label_names import Regions, is_count, names_and_regions, read_yaml

_HINTS = get_type_hints(LabelValues)
_FORMS: tuple[str, ...] = get_args(_HINTS["form"])
_PARTS: tuple[str, ...] = get_args(_HINTS["parts"])
_BELONGS_TO = {"legend": "colours", "threshold": "binary", "background": "ids"}
"""Keys of ``values`` that only one form uses; without ``form``, they say which one it is."""


@dataclass(frozen=True)
class LabelRules:
    """What a rules file says.

    Attributes:
        values: How values of label files become ids.
        cleanup: Which labels stay, are joined, dropped or split.
        names: Names by the ids that come out.
        regions: Ids that come out, by region.
        image_key: Path of the image inside an HDF5 file, if it is not found by its name.
    """

    values: LabelValues = AUTO
    cleanup: Cleanup = field(default_factory=Cleanup)
    names: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    image_key: str | None = None


def read_label_rules(source: Path | Mapping[str, Any]) -> LabelRules:
    """Reads label rules.

    Args:
        source: A YAML or JSON file, or its content. Keys, all optional: ``values`` (the fields of
            ``LabelValues`` without ``part_names``; a legend is ``"#rrggbb": id``), ``keep`` and
            ``drop`` (lists of ids), ``merge`` (``{new id: [ids]}``), ``names`` (or ``rename``;
            ``{id: name}``), ``ids_by_name`` (``{name in the file: id}``, for files that name their
            labels; all others go; not with keep, drop or merge), ``regions`` (``{name: [ids]}``),
            ``min_voxels_3d``, ``min_pixels_2d``, ``instances_of`` (list of ids), ``image_key``.
            ``keep``, ``drop`` and the ids that are merged are those of the file; all others are
            those after the merge.

    Returns:
        The rules; their contradictions are left to ``settings.check_cleanup``.

    Raises:
        UserError: The file cannot be read, a key is unknown, or a value is not of its form.
    """
    if isinstance(source, Mapping):
        where, content = "label_rules", dict(source)
    else:
        where, content = str(source), read_yaml(source, "label rules")
    if not isinstance(content, dict) or not content:
        raise UserError(f"{where}: must map rules to values, such as {{keep: [1, 2]}}")
    if "rename" in content:
        if "names" in content:
            raise UserError(f"{where}: 'rename' and 'names' are the same rule; keep one of them")
        content["names"] = content.pop("rename")
    check_keys(where, content, _READERS)
    given = {key: _READERS[key](f"{where}: {key}", value) for key, value in content.items()}
    own = {key: given[key] for key in _OWN if key in given}
    rules = {_CLEANUP_NAME.get(key, key): v for key, v in given.items() if key not in _OWN}
    return LabelRules(**own, cleanup=Cleanup(**rules))


def check_keys(where: str, content: Mapping[Any, Any], known: Collection[str]) -> None:
    """Raises ``UserError`` at an unknown key, with the known one that is closest."""
    for key in content:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise UserError(f"{where}: unknown key {key!r}; {hint}")


def _count(where: str, value: object) -> int:
    if not is_count(value):
        raise UserError(f"{where} is {value!r}; it must be a whole number, 0 or more")
    return int(str(value))


def _ids(where: str, value: object) -> tuple[int, ...]:
    """Ids in ascending order; repeated ones count once."""
    if not isinstance(value, list) or not value or not all(is_count(label) for label in value):
        raise UserError(f"{where} is {value!r}; it must be a list of label ids, such as [1, 2]")
    return tuple(sorted(set(value)))


def _merge(where: str, value: object) -> dict[int, tuple[int, ...]]:
    if not isinstance(value, dict) or not value:
        raise UserError(
            f"{where} is {value!r}; it must be {{new id: [ids]}}, such as {{1: [1, 2]}}"
        )
    return {_count(where, new): _ids(f"{where}: {new}", ids) for new, ids in value.items()}


def _ids_by_name(where: str, value: object) -> dict[str, int]:
    if not isinstance(value, dict) or not value:
        raise UserError(f"{where} is {value!r}; it must map names to ids, such as {{liver: 1}}")
    return {str(name).strip(): _count(f"{where}: {name}", label) for name, label in value.items()}


def _names(where: str, value: object) -> dict[int, str]:
    names, regions = names_and_regions(where, value)
    if regions:
        raise UserError(f"{where}: {next(iter(regions))} has a list of ids; put it under 'regions'")
    return names


def _regions(where: str, value: object) -> Regions:
    if not isinstance(value, dict) or not value:
        raise UserError(f"{where} is {value!r}; it must be {{name: [ids]}}")
    regions = {str(name): _ids(f"{where}: {name}", ids) for name, ids in value.items()}
    for name, ids in regions.items():
        if 0 in ids:
            raise UserError(f"{where}: {name} holds id 0, the background; leave it out")
    return regions


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"{where} is {value!r}; it must be a text")
    return value


def _values(where: str, value: object) -> LabelValues:
    if not isinstance(value, dict) or not value:
        raise UserError(f"{where} is {value!r}; it must map, such as {{form: binary}}")
    check_keys(where, value, _VALUE_READERS)
    given = {key: _VALUE_READERS[key](f"{where}: {key}", v) for key, v in value.items()}
    implied = [form for key, form in _BELONGS_TO.items() if key in given]
    form = given.setdefault("form", implied[0] if implied else "auto")
    for key, needed in _BELONGS_TO.items():
        if key in given and form != needed:
            raise UserError(f"{where}: {key} has a meaning for form {needed} only, not for {form}")
    if form == "colours" and "legend" not in given:
        raise UserError(f'{where}: form colours needs a legend, such as {{"#ff0000": 1}}')
    if "tolerance" in given and form != "colours":
        raise UserError(f"{where}: tolerance has a meaning for form colours only, not for {form}")
    return LabelValues(**given)


def _legend(where: str, value: object) -> dict[Colour, int]:
    if not isinstance(value, dict) or not value:
        raise UserError(f'{where} is {value!r}; it must map colours to ids: {{"#ff0000": 1}}')
    legend: dict[Colour, int] = {}
    for key, label in value.items():
        if not isinstance(key, str) or not re.fullmatch(r"#?[0-9a-fA-F]{6}", key):
            raise UserError(f'{where}: {key!r} is no colour; write it in quotes as "#rrggbb"')
        digits = key.removeprefix("#")
        red, green, blue = (int(digits[at : at + 2], 16) for at in (0, 2, 4))
        legend[red, green, blue] = _count(f"{where}: {key}", label)
    return legend


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where} is {value!r}; it must be a number")
    return float(value)


def _background(where: str, value: object) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UserError(f"{where} is empty; give one value or several, such as [0, 255]")
    return tuple(_number(where, entry) for entry in values)


def _one_of(choices: Sequence[str]) -> Callable[[str, object], str]:
    def read(where: str, value: object) -> str:
        if value not in choices:
            raise UserError(f"{where} is {value!r}; it must be one of {', '.join(choices)}")
        return str(value)

    return read


_VALUE_READERS: Mapping[str, Callable[[str, object], Any]] = {
    "form": _one_of(_FORMS),
    "threshold": _number,
    "background": _background,
    "legend": _legend,
    "tolerance": _count,
    "parts": _one_of(_PARTS),
    "key": _text,
}
_READERS: Mapping[str, Callable[[str, object], Any]] = {
    "values": _values,
    "keep": _ids,
    "drop": _ids,
    "merge": _merge,
    "ids_by_name": _ids_by_name,
    "names": _names,
    "regions": _regions,
    "min_voxels_3d": _count,
    "min_pixels_2d": _count,
    "instances_of": _ids,
    "image_key": _text,
}
_OWN = ("values", "names", "regions", "image_key")
_CLEANUP_NAME = {"drop": "drop_labels"}
