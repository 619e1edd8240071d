"""Recipes: what a data set is, and with which options of ``prepare`` it becomes cases."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from medsam2_ft.command import CommandParser, build_parser
from medsam2_ft.entry import closest_name
from medsam2_ft.errors import UserError
from medsam2_ft.prepare import Input, prepare
from medsam2_ft.prepare.label_names import read_yaml
from medsam2_ft.prepare.label_rules import read_label_rules

RECIPES = Path(__file__).parent / "recipes"
COLLECTIONS = Path(__file__).parent / "collections"
LayoutFrom = Literal["files", "description"]
_ABOUT = ("title", "task", "licence", "layout", "layout_from")
INPUT_OPTIONS = tuple(f.name for f in fields(Input) if f.name not in ("images", "labels"))
"""Options of ``prepare`` that may differ between the inputs of a data set."""
OPTIONS = (*INPUT_OPTIONS, "val_share", "test_share")
"""Options of ``prepare`` that a recipe may give."""


@dataclass(frozen=True)
class Recipe:
    """One data set, or a collection of several.

    Attributes:
        path: Its file.
        name: Stem of its file, or its name in a collection.
        title: Its full name.
        task: What is segmented in what.
        licence: Page with the terms.
        layout: Example paths below the data set's folder -> what the file holds.
        layout_from: Whether the layout was checked against files of the data set, or written from
            its published description.
        inputs: Options of ``prepare``, one entry for each call; empty for a collection.
        options: What the entries of ``code`` have in common.
        code: Module of ``data_prep`` with ``inputs(source, work)``, which finds the entries.
        members: The data sets of a collection.
    """

    path: Path
    name: str
    title: str
    task: str
    licence: str
    layout: Mapping[str, str]
    layout_from: LayoutFrom
    inputs: tuple[Mapping[str, Any], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    code: str | None = None
    members: "tuple[Member, ...]" = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the options name, sorted; empty where the files decide."""
        entries = (self.options, *self.inputs)
        own = {str(entry["modality"]) for entry in entries if "modality" in entry}
        return tuple(sorted(own.union(*(member.recipe.modalities for member in self.members))))


@dataclass(frozen=True)
class Member:
    """A data set of a collection.

    Attributes:
        folder: Where it lies below the collection's folder.
        recipe: How it is prepared.
    """

    folder: str
    recipe: Recipe


def recipe_names() -> tuple[str, ...]:
    """Returns the names of the recipes and collections that come with the package, sorted."""
    return tuple(sorted(_known()))


def _known() -> dict[str, Path]:
    return {path.stem: path for folder in (RECIPES, COLLECTIONS) for path in folder.glob("*.yaml")}


def load_recipe(name: str) -> Recipe:
    """Reads a recipe.

    Args:
        name: One of ``recipe_names``, or the path of a YAML file of one's own.

    Raises:
        UserError: There is no such recipe, or it is not valid.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = _known()
        if name not in known:
            closest = closest_name(name, known)
            hint = f"did you mean {closest}?" if closest else "see python -m data_prep --list"
            raise UserError(f"unknown data set {name}: {hint} (or give the path of a YAML file)")
        path = known[name]
    content = read_yaml(path, "recipe")
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe maps names to values; see data_prep/recipes")
    return _recipe(path, content)


def _recipe(path: Path, content: Mapping[str, Any]) -> Recipe:
    _check_keys(path, content, (*_ABOUT, "inputs", "code", "datasets", *OPTIONS))
    layout = content.get("layout", {})
    layout_from = content.get("layout_from", "description")
    if not isinstance(layout, dict) or layout_from not in get_args(LayoutFrom):
        raise UserError(
            f"{path}: layout must map paths to what they hold, layout_from be one of "
            f"{', '.join(get_args(LayoutFrom))}"
        )
    inputs, options, code = _inputs(path, content)
    recipe = Recipe(
        path=path,
        name=path.stem,
        title=str(content.get("title", path.stem)),
        task=str(content.get("task", "")),
        licence=str(content.get("licence", "")),
        layout={str(key): str(value) for key, value in layout.items()},
        layout_from=layout_from,
        inputs=inputs,
        options=options,
        code=code,
    )
    recipe = replace(recipe, members=_members(recipe, content.get("datasets", {})))
    if not (recipe.inputs or recipe.code or recipe.members):
        raise UserError(f"{path}: says nothing about images and labels; give image_glob at least")
    return recipe


def _inputs(
    path: Path, content: Mapping[str, Any]
) -> tuple[tuple[Mapping[str, Any], ...], Mapping[str, Any], str | None]:
    """The inputs, the options that they share, and the module that adds others."""
    options = {key: value for key, value in content.items() if key in OPTIONS}
    code = content.get("code")
    if code is not None and not (
        isinstance(code, str) and code.isidentifier() and find_spec(f"data_prep.{code}")
    ):
        raise UserError(f"{path}: code names {code}, which is no module of data_prep; leave it out")
    listed = content.get("inputs", [] if code or not options else [{}])
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise UserError(f"{path}: inputs must be a list of options")
    _check_values(path, options)
    for entry in listed:
        _check_keys(path, entry, INPUT_OPTIONS)
        _check_values(path, entry)
    return tuple({**options, **entry} for entry in listed), options, code


def _members(collection: Recipe, datasets: object) -> tuple[Member, ...]:
    path = collection.path
    if not isinstance(datasets, dict) or not all(isinstance(e, dict) for e in datasets.values()):
        raise UserError(f"{path}: datasets must map names to a folder and a recipe or options")
    return tuple(
        Member(str(entry.get("folder", name)), _member(collection, str(name), entry))
        for name, entry in datasets.items()
    )


def _member(collection: Recipe, name: str, entry: Mapping[str, Any]) -> Recipe:
    """A recipe with options of its own, which win, or options alone."""
    path = collection.path
    if "recipe" not in entry:
        _check_keys(path, entry, ("folder", "recipe", "inputs", *OPTIONS))
        inputs, options, _ = _inputs(path, entry)
        return replace(collection, name=name, title=name, layout={}, inputs=inputs, options=options)
    _check_keys(path, entry, ("folder", "recipe", *OPTIONS))
    try:
        base = load_recipe(str(entry["recipe"]))
    except UserError as error:
        raise UserError(f"{path}: {name}: {error}") from error
    options = {key: value for key, value in entry.items() if key in OPTIONS}
    _check_values(path, options)
    inputs = tuple({**each, **options} for each in base.inputs)
    return replace(base, name=name, inputs=inputs, options={**base.options, **options})


def _check_keys(path: Path, content: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Makes sure that a mapping of a recipe holds known keys only.

    Raises:
        UserError: A key is unknown; the closest one is named.
    """
    for key in content:
        if key not in known:
            closest = closest_name(str(key), known)
            hint = f"did you mean {closest}?" if closest else f"there are {', '.join(known)}"
            raise UserError(f"{path}: unknown key {key!r}: {hint}")


def _check_values(path: Path, options: Mapping[str, Any]) -> None:
    """Raises ``UserError`` where a value does not suit its option."""
    rules = options.get("label_rules")
    rest = {k: v for k, v in options.items() if k != "label_rules" and v is not None}
    try:
        if rules is not None:
            read_label_rules(rules if isinstance(rules, Mapping) else Path(str(rules)))
        _option_parser().parse_object({"images": "", "labels": "", "out": "", **rest})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


@cache
def _option_parser() -> CommandParser:
    return build_parser(prepare, "medsam2-ft prepare")
