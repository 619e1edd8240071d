"""Runs a recipe: one call of ``prepare`` for each of its inputs, into one folder of cases."""

import importlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.catalogue import OPTIONS, Recipe, check_keys, load_recipe
from medsam2_ft.errors import UserError
from medsam2_ft.prepare import NothingFoundError, prepare

CodeInputs = Callable[[Path, Path], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Job:
    """One data set to prepare.

    Attributes:
        name: Name of the data set.
        recipe: How.
        source: Its folder.
        out: Where its cases go.
    """

    name: str
    recipe: Recipe
    source: Path
    out: Path


def jobs_of(recipe: Recipe, source: Path, out: Path) -> list[Job]:
    """Returns the data sets of a recipe: itself, or those of a collection.

    Raises:
        UserError: A folder does not exist, or an entry of a collection is not valid.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give the folder of the data set {recipe.name}")
    if recipe.datasets is None:
        return [Job(recipe.name, recipe, source, out)]
    jobs = [
        Job(name, _member(recipe, name, entry), source / str(entry.get("folder", name)), out / name)
        for name, entry in recipe.datasets.items()
    ]
    missing = [job.source for job in jobs if not job.source.is_dir()]
    if missing:
        raise UserError(f"{missing[0]}: no such folder; {recipe.title} holds {len(jobs)} data sets")
    return jobs


def _member(collection: Recipe, name: str, entry: Mapping[str, Any]) -> Recipe:
    where = Path(f"{collection.name}.yaml")
    check_keys(where, entry, ("folder", "recipe", "inputs", *OPTIONS))
    base = load_recipe(entry["recipe"]) if "recipe" in entry else None
    options = {key: value for key, value in entry.items() if key in OPTIONS}
    listed = entry.get("inputs") or (base.inputs if base else ({},))
    return Recipe(
        name=name,
        title=base.title if base else name,
        task=base.task if base else "",
        licence=base.licence if base else collection.licence,
        layout=base.layout if base else {},
        layout_from=base.layout_from if base else collection.layout_from,
        inputs=tuple(
            {**options, **each} if base is None else {**each, **options} for each in listed
        ),
        code=base.code if base else None,
    )


def run_job(job: Job, **overrides: Any) -> None:
    """Prepares one data set.

    Inputs whose patterns match no file are passed over, as long as one of them matches: releases
    of a data set differ.

    Args:
        job: What to prepare.
        **overrides: Options of ``prepare`` that win over the recipe's.

    Raises:
        UserError: Nothing matches, or cases failed; the others have been written then.
    """
    # beside the output: prepare does not take its own output for input
    work = job.out.with_name(f".{job.out.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        problems, found = [], False
        inputs = [*job.recipe.inputs, *_code_inputs(job, work)]
        for number, options in enumerate(inputs):
            try:
                _prepare(job, options, overrides)
                found = True
            except NothingFoundError:
                print(f"{job.name}: input {number + 1} of {len(inputs)}: not in {job.source}")
            except UserError as error:
                found = True
                problems.append(str(error))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not found:
        expected = "; ".join(f"{path} ({what})" for path, what in job.recipe.layout.items())
        raise UserError(f"{job.source}: does not look like {job.name}; expected are {expected}")
    if problems:
        raise UserError(" | ".join(problems))


def _code_inputs(job: Job, work: Path) -> Sequence[Mapping[str, Any]]:
    """Inputs that the recipe's module finds; it may write small label files below ``work``."""
    if job.recipe.code is None:
        return ()
    inputs: CodeInputs = importlib.import_module(f"data_prep.{job.recipe.code}").inputs
    return inputs(job.source, work)


def _prepare(job: Job, options: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    known = {key: value for key, value in options.items() if key not in ("images", "labels")}
    prepare(
        Path(options.get("images", job.source)),
        Path(options.get("labels", job.source)),
        job.out,
        **{**known, **overrides},
    )
