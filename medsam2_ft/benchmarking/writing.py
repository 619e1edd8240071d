"""Writes everything that a reader gets from records: tables, summaries, figures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from medsam2_ft.benchmarking.comparison import columns, compare
from medsam2_ft.benchmarking.extremes import write_extremes
from medsam2_ft.benchmarking.figures import write_figures
from medsam2_ft.benchmarking.folder import Plan, Run
from medsam2_ft.benchmarking.jobs import RANDOM
from medsam2_ft.benchmarking.summary import Benchmark, to_json, to_markdown
from medsam2_ft.benchmarking.tables import RESULTS, SLICES, write_results, write_slices
from medsam2_ft.io.atomic import make_folder, write_json, write_text

SUMMARY_JSON: Final = "summary.json"
SUMMARY: Final = "summary.md"
FIGURES: Final = "figures"


def ordered(run: Run) -> Run:
    """Returns the run with its records by model in the plan's order, then strategy and case."""
    models = list(run.plan.models)

    def place(index: int) -> tuple[int, int, tuple[str, str]]:
        record = run.records[index]
        strategies = run.plan.models[record.model][1]
        return models.index(record.model), strategies.index(record.strategy), record.case_key

    indices = sorted(range(len(run.records)), key=place)
    return replace(run, records=[run.records[index] for index in indices])


def write_tables(folder: Path, run: Run) -> Benchmark:
    """Writes ``results.csv``, ``slices.csv.gz``, ``summary.json`` and ``summary.md``.

    Args:
        folder: Where; it is made.
        run: What was found.

    Returns:
        The comparison.

    Raises:
        UserError: A file cannot be written.
    """
    run = ordered(run)
    make_folder(folder)
    write_results(folder / RESULTS, run.records)
    write_slices(folder / SLICES, run.records)
    notes = [*run.notes, *untrained(run.plan)]
    benchmark = Benchmark(
        run.plan.settings, run.records, compare(run.records), run.plan.skipped, notes
    )
    write_json(folder / SUMMARY_JSON, to_json(benchmark))
    write_text(folder / SUMMARY, to_markdown(benchmark))
    return benchmark


def untrained(plan: Plan) -> list[str]:
    """Returns a line about models with random weights, so that nobody takes them for trained."""
    names = [name for name, (key, _) in plan.models.items() if RANDOM in key]
    if not names:
        return []
    return [f"random weights, whose scores say nothing about a model: {', '.join(names)}"]


def write_pictures(folder: Path, benchmark: Benchmark, overlays: int) -> Sequence[str]:
    """Draws the figures and, for each model and modality, the worst and the best cases.

    Args:
        folder: The results folder.
        benchmark: From ``write_tables``.
        overlays: How many of the worst and of the best; 0 for none.

    Returns:
        Lines about cases that could not be drawn.

    Raises:
        UserError: A file cannot be written.
    """
    write_figures(folder / FIGURES, benchmark.records, benchmark.groups)
    names = columns(benchmark.records)
    _, missing = write_extremes(folder / FIGURES / "cases", benchmark.records, names, overlays)
    return missing
