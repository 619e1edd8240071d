"""Names of label ids and of regions, from YAML or JSON."""

from pathlib import Path
from typing import Any

import yaml

from medsam2_ft.errors import UserError

Regions = dict[str, tuple[int, ...]]
"""Label ids that make up a region, by its name."""


def read_label_names(path: Path) -> tuple[dict[int, str], dict[str, tuple[int, ...]]]:
    """Reads names of labels and regions from JSON or YAML.

    Args:
        path: A mapping ``{1: liver, 2: tumour}``, or ``{liver: 1, tumour: 2}``, or either under a
            key ``labels`` (nnU-Net's ``dataset.json``). A name with a list of ids is a region:
            ``{whole liver: [1, 2]}``. The background, id 0, is passed over.

    Returns:
        Names by label id, and ids by region.

    Raises:
        UserError: The file cannot be read or is no such mapping.
    """
    content = read_yaml(path, "label names")
    if isinstance(content, dict) and isinstance(content.get("labels"), dict):
        content = content["labels"]
    return names_and_regions(str(path), content)


def names_and_regions(where: str, content: object) -> tuple[dict[int, str], Regions]:
    """Reads names of labels, as ``id: name`` or ``name: id``, and regions, as ``name: [ids]``.

    Raises:
        UserError: Anything else, or two names for one id.
    """
    if not isinstance(content, dict) or not content:
        raise UserError(f"{where}: must map label ids to names, such as {{1: liver, 2: tumour}}")
    names: dict[int, str] = {}
    regions: Regions = {}
    for key, value in content.items():
        entry = _label_entry(key, value)
        if entry is None:
            raise UserError(
                f"{where}: {key!r}: {value!r} is neither 'id: name' nor 'name: id' nor "
                "'region: [ids]'"
            )
        name, ids = entry
        if isinstance(ids, tuple):
            regions[name] = ids
        elif ids > 0 and names.setdefault(ids, name) != name:
            raise UserError(f"{where}: label {ids} has two names, {names[ids]} and {name}")
    return names, regions


def _label_entry(key: object, value: object) -> tuple[str, int | tuple[int, ...]] | None:
    """One entry as (name, id) or (region, ids); None where it is neither."""
    if isinstance(value, list):
        ids = tuple(label for label in value if is_count(label) and label > 0)
        return (str(key), ids) if ids and len(ids) == len(value) else None
    if isinstance(value, str) and str(key).isdecimal():
        return value, int(str(key))
    if is_count(value):
        return str(key), int(str(value))
    return None


def is_count(value: object) -> bool:
    """Returns whether a value is a whole number, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class _PlainLoader(yaml.SafeLoader):
    """Refuses a key that occurs twice, of which PyYAML takes the last, and aliases.

    A few lines of aliases of aliases make a value that fills all memory where it is shown.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not read, write the value out", mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = (key_node.tag, str(key_node.value))
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} occurs twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str) -> Any:
    """Returns the content of a YAML (or JSON) file.

    Raises:
        UserError: It cannot be read, a key occurs twice, or it holds an alias.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return yaml.load(text, _PlainLoader)  # a SafeLoader
    # ValueError: bytes that are no UTF-8, or a date such as 2001-13-45
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: the {what} cannot be read ({reason})") from error
