"""Recipes: what a data set is, and with which options of ``prepare`` it becomes cases."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from medsam2_ft.entry import closest_name
from medsam2_ft.errors import UserError
from medsam2_ft.prepare import prepare

RECIPES = Path(__file__).parent / "recipes"
COLLECTIONS = Path(__file__).parent / "collections"
LayoutFrom = Literal["files", "description"]
_ABOUT = ("title", "task", "licence", "layout", "layout_from")
_RUN_ONLY = ("workers", "overwrite", "seed", "split_file")
OPTIONS = tuple(
    name
    for name, parameter in inspect.signature(prepare).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in _RUN_ONLY
)
"""Options of ``prepare`` that a recipe may give."""


@dataclass(frozen=True)
class Recipe:
    """One data set, or a collection of several.

    Attributes:
        name: Stem of its file.
        title: Its full name.
        task: What is segmented in what.
        licence: Page with the terms.
        layout: Example paths below the data set's folder -> what the file holds.
        layout_from: Whether the layout was checked against files of the data set, or written from
            its published description.
        inputs: Options of ``prepare``, one entry for each call; empty for a collection.
        code: Module of ``data_prep`` with ``inputs(source, work)``, which adds entries.
        datasets: For a collection: name of each data set -> its ``folder`` and either a
            ``recipe`` or options.
    """

    name: str
    title: str
    task: str
    licence: str
    layout: Mapping[str, str]
    layout_from: LayoutFrom
    inputs: tuple[Mapping[str, Any], ...]
    code: str | None = None
    datasets: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the options name, sorted; empty where the files decide."""
        return tuple(sorted({entry["modality"] for entry in self.inputs if "modality" in entry}))


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
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: the recipe cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe maps names to values; see data_prep/recipes")
    return _recipe(path, content)


def _recipe(path: Path, content: Mapping[str, Any]) -> Recipe:
    check_keys(path, content, (*_ABOUT, "inputs", "code", "datasets", *OPTIONS))
    options = {key: value for key, value in content.items() if key in OPTIONS}
    listed = content.get("inputs", [{}] if options else [])
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise UserError(f"{path}: inputs must be a list of options")
    for entry in listed:
        check_keys(path, entry, OPTIONS)
    layout = content.get("layout", {})
    layout_from = content.get("layout_from", "description")
    if not isinstance(layout, dict) or layout_from not in get_args(LayoutFrom):
        raise UserError(
            f"{path}: layout must map paths to what they hold, layout_from be one of "
            f"{', '.join(get_args(LayoutFrom))}"
        )
    if not listed and not content.get("code") and not content.get("datasets"):
        raise UserError(f"{path}: says nothing about images and labels; give image_glob at least")
    return Recipe(
        name=path.stem,
        title=str(content.get("title", path.stem)),
        task=str(content.get("task", "")),
        licence=str(content.get("licence", "")),
        layout={str(key): str(value) for key, value in layout.items()},
        layout_from=layout_from,
        inputs=tuple({**options, **entry} for entry in listed),
        code=content.get("code"),
        datasets=content.get("datasets"),
    )


def check_keys(path: Path, content: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Makes sure that a mapping of a recipe holds known keys only.

    Raises:
        UserError: A key is unknown; the closest one is named.
    """
    for key in content:
        if key not in known:
            closest = closest_name(str(key), known)
            hint = f"did you mean {closest}?" if closest else f"there are {', '.join(known)}"
            raise UserError(f"{path}: unknown key {key!r}: {hint}")
