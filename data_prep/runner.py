"""Runs a recipe: its inputs become one folder of cases."""

import importlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.catalogue import INPUT_OPTIONS, OPTIONS, Recipe
from medsam2_ft.errors import UserError
from medsam2_ft.prepare import Input, NothingFoundError, prepare_inputs

_RUN_OPTIONS = set(OPTIONS) - set(INPUT_OPTIONS)
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
        UserError: A folder does not exist.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give the folder of the data set {recipe.name}")
    if not recipe.members:
        return [Job(recipe.name, recipe, source, out)]
    jobs = [
        Job(member.recipe.name, member.recipe, source / member.folder, out / member.recipe.name)
        for member in recipe.members
    ]
    missing = [job.source for job in jobs if not job.source.is_dir()]
    if missing:
        raise UserError(f"{missing[0]}: no such folder; {recipe.title} holds {len(jobs)} data sets")
    return jobs


def run_job(job: Job, **overrides: Any) -> None:
    """Prepares one data set.

    Inputs whose patterns match no file are passed over, as long as one of them matches: releases
    of a data set differ.

    Args:
        job: What to prepare.
        **overrides: Options of ``prepare_inputs`` that win over the recipe's.

    Raises:
        UserError: Nothing matches, or cases failed; the others have been written then.
    """
    with _work_folder(job.out) as work:
        entries = [*job.recipe.inputs, *_code_inputs(job, work)]
        shared = {key: job.recipe.options[key] for key in _RUN_OPTIONS & job.recipe.options.keys()}
        inputs = [_input(job, entry) for entry in entries]
        try:
            if not inputs:
                raise NothingFoundError(f"{job.source}: no file matches")
            prepare_inputs(inputs, job.out, **{**shared, **overrides})
        except NothingFoundError as error:
            expected = "; ".join(f"{path} ({what})" for path, what in job.recipe.layout.items())
            hint = f"expected are {expected}" if expected else str(error)
            raise UserError(f"{job.source}: does not look like {job.name}; {hint}") from error


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """A folder beside the output, for prepare does not take its own output for input."""
    work = out.with_name(f".{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _code_inputs(job: Job, work: Path) -> Sequence[Mapping[str, Any]]:
    """Inputs that the recipe's module finds; it may write small label files below ``work``."""
    if job.recipe.code is None:
        return ()
    inputs: CodeInputs = importlib.import_module(f"data_prep.{job.recipe.code}").inputs
    return [{**job.recipe.options, **entry} for entry in inputs(job.source, work)]


def _input(job: Job, entry: Mapping[str, Any]) -> Input:
    known = {key: value for key, value in entry.items() if key in INPUT_OPTIONS}
    folders = {key: Path(entry.get(key, job.source)) for key in ("images", "labels")}
    return Input(**{**known, **folders})
