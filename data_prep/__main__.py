"""``python -m data_prep NAME SOURCE OUT``: a public data set becomes npz cases."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data_prep.catalogue import Recipe, load_recipe, recipe_names
from data_prep.runner import jobs_of, run_job
from data_prep.sheets import draw_sheets
from medsam2_ft.command import run_command
from medsam2_ft.entry import run
from medsam2_ft.errors import UserError

PROG = "python -m data_prep"
USAGE = f"""usage: {PROG} NAME SOURCE OUT [OPTIONS]   prepare the data set that lies in SOURCE
       {PROG} --list                     name the data sets
       {PROG} --show NAME                expected folders, licence page and options of one
       {PROG} NAME SOURCE OUT --help     explain the options

NAME may be the path of a recipe of your own (YAML)."""


def prepare_dataset(
    name: str,
    source: Path,
    out: Path,
    *,
    val_share: float | None = None,
    test_share: float | None = None,
    split_file: Path | None = None,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    sheets: bool = True,
) -> None:
    """Turns a public data set into npz cases, split into train, val and test.

    Interrupted, it goes on where it was; run again, it does nothing.

    Args:
        name: Name of a data set (see --list), or a recipe of your own (YAML).
        source: Folder into which the data set was unpacked.
        out: Output folder; a collection makes a folder for each of its data sets.
        val_share: Share of the patients for validation, in place of the recipe's.
        test_share: Share of the patients for testing, in place of the recipe's.
        split_file: JSON {"train": [names], "val": [...], "test": [...]} or CSV name,split.
        seed: Another seed gives another split.
        workers: Processes; by default one per core, as far as memory allows.
        overwrite: Build every case again and split anew.
        sheets: Draw a contact sheet of each modality (OUT/preview) where cases are new.

    Raises:
        UserError: Unknown name, a folder that does not look like the data set, or cases that
            failed, after all others have been written.
    """
    given: dict[str, Any] = {
        "val_share": val_share,
        "test_share": test_share,
        "split_file": split_file,
        "workers": workers,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    problems = []
    jobs = jobs_of(load_recipe(name), source, out)
    for job in jobs:
        if len(jobs) > 1:
            print(f"== {job.name}", flush=True)
        try:
            run_job(job, seed=seed, overwrite=overwrite, **overrides)
        except UserError as error:
            problems.append(str(error) if len(jobs) == 1 else f"{job.name}: {error}")
    if sheets:
        draw_sheets(out)
    if problems:
        raise UserError(" | ".join(problems))


def print_list() -> None:
    """Prints all data sets with modality, task and licence page."""
    table = Table(title="Data sets", title_justify="left")
    for header in ("name", "modality", "task", "licence page", "layout from"):
        table.add_column(header, overflow="fold")
    for name in recipe_names():
        recipe = load_recipe(name)
        modalities = ", ".join(recipe.modalities) or "by file"
        table.add_row(name, modalities, recipe.task, recipe.licence, recipe.layout_from)
    Console().print(table)


def print_recipe(recipe: Recipe) -> None:
    """Prints one data set with the folders that it must have."""
    checked = {
        "files": "checked against files of the data set",
        "description": "written from its published description",
    }[recipe.layout_from]
    print(f"{recipe.name}: {recipe.title}\n{recipe.task}\nlicence page: {recipe.licence}\n")
    print(f"layout ({checked}):")
    for path, what in recipe.layout.items():
        print(f"  SOURCE/{path}\n      {what}")
    for entry in recipe.inputs:
        print("options:", ", ".join(f"{key}: {value}" for key, value in entry.items()))
    for member in recipe.members:
        kinds = ", ".join(member.recipe.modalities) or "modality by file"
        print(f"  SOURCE/{member.folder} -> OUT/{member.recipe.name} ({kinds})")


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code of ``medsam2_ft.entry.run``."""
    given = list(sys.argv[1:] if args is None else args)

    def dispatch() -> None:
        if not given or given[0] in ("-h", "--help"):
            print(USAGE)
        elif given[0] == "--list":
            print_list()
        elif given[0] == "--show":
            if len(given) != 2:
                raise UserError(f"--show takes the name of one data set; see {PROG} --list")
            print_recipe(load_recipe(given[1]))
        else:
            run_command(prepare_dataset, PROG, given)

    return run(dispatch)


if __name__ == "__main__":
    sys.exit(main())
