"""Prints what was found in a folder of cases."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from medsam2_ft.inspection.facts import CaseFacts
from medsam2_ft.inspection.problems import Problem
from medsam2_ft.inspection.summary import (
    Spread,
    rule_text,
    summarize_labels,
    summarize_modalities,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.table import Table

_SHOWN = 3  # findings of one kind that are named before the rest is counted
_MAX_LABELS = 20  # rows of a modality in the label table; a file of instances has thousands
_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_WIDE = 160  # columns of a table that goes to a file


def make_console() -> "Console":
    """Returns the console; one that is no terminal is wide, so that no table is cut."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


@contextmanager
def progress(console: "Console", total: int) -> Iterator["Callable[[], None]"]:
    """Shows a bar with the remaining time on a terminal, nothing elsewhere.

    Args:
        console: Where.
        total: Number of cases.

    Yields:
        A function to call after every case.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("inspecting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("inspecting", total=total)
        yield lambda: bar.advance(task)


def print_modalities(console: "Console", cases: Sequence[CaseFacts]) -> None:
    """Prints one row per modality."""
    numbers = ("slices", "rows", "columns", "slice mm", "pixel mm")
    table = _table(
        f"{len(cases)} case{'' if len(cases) == 1 else 's'}",
        ("modality", "cases", "splits", "kinds", *numbers, "intensity"),
        ("cases", *numbers),
    )
    for summary in summarize_modalities(cases):
        table.add_row(
            summary.modality,
            str(summary.cases),
            _counts(summary.splits),
            _counts(summary.kinds) + (f", {summary.colour} colour" if summary.colour else ""),
            *map(_range, (summary.depth, summary.height, summary.width)),
            _range(summary.slice_mm),
            _range(summary.pixel_mm),
            _counts(summary.rules) if len(summary.rules) > 1 else next(iter(summary.rules)),
        )
    console.print(table)


def print_labels(console: "Console", cases: Sequence[CaseFacts]) -> None:
    """Prints one row per modality and label."""
    numbers = ("cases", "objects", "slices", "voxels or pixels", "volume (ml)")
    table = _table("labels", ("modality", "label", "id", *numbers), numbers)
    table.caption, table.caption_justify = "ranges are smallest~median~largest", "left"
    summaries = summarize_labels(cases)
    rows: Counter[str] = Counter()
    for summary in summaries:
        rows[summary.modality] += 1
        if rows[summary.modality] > _MAX_LABELS:
            continue
        volume = summary.volume_mm3
        first, last = summary.ids[0], summary.ids[-1]
        table.add_row(
            summary.modality,
            summary.name or "",
            str(first) if first == last else f"{first}...{last}",
            str(summary.cases),
            str(summary.objects),
            str(summary.slices),
            _range(summary.voxels),
            _range(None if volume is None else _scaled(volume, 1e-3)),
        )
    if summaries:
        console.print(table)
    for modality, count in rows.items():
        if count > _MAX_LABELS:
            more = count - _MAX_LABELS
            console.print(f"and {more} more labels of {modality}; --json lists all of them")


def print_cases(console: "Console", cases: Sequence[CaseFacts]) -> None:
    """Prints one row per case."""
    columns = ("case", "split", "kind", "modality", "size z y x", "spacing mm", "labels", "gray")
    table = _table("cases", (*columns, "intensity"), ())
    for case in cases:
        spacing = " ".join(f"{value:.3g}" for value in case.spacing_mm)
        table.add_row(
            case.file,
            case.split or "",
            case.kind,
            case.modality or "",
            " ".join(map(str, case.size_zyx)) + (" colour" if case.colour else ""),
            spacing if case.kind == "3D" else "",
            str(len(case.labels)),
            f"{case.gray_min}-{case.gray_max}, mean {case.gray_mean:.0f}",
            rule_text(case.intensity),
        )
    console.print(table)


def print_problems(console: "Console", problems: Sequence[Problem]) -> None:
    """Prints the findings, a few of every kind; one image in two splits comes in a frame."""
    from rich.panel import Panel
    from rich.text import Text

    if not problems:
        console.print("no problems found")
        return
    groups: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.kind].append(problem)
    for kind, group in groups.items():
        style = _STYLES[group[0].severity]
        lines = [f"{' and '.join(problem.files[:4])}: {problem.text}" for problem in group[:_SHOWN]]
        if group[_SHOWN:]:
            lines.append(f"and {len(group) - _SHOWN} more; --json lists all of them")
        if kind == "leak":
            title = f"LEAK: {len(group)} image{'' if len(group) == 1 else 's'} in several splits"
            console.print(Panel(Text("\n".join(lines)), title=title, style=style))
            continue
        console.print(Text(f"{group[0].severity}: {kind} ({len(group)})", style=style))
        for line in lines:
            console.print(Text(f"  {line}"), soft_wrap=True)


def _table(title: str, columns: Sequence[str], right: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        number = column in right
        table.add_column(column, justify="right" if number else "left", no_wrap=number)
    return table


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def _range(spread: Spread | None) -> str:
    """Smallest, middle and largest; one number where they agree."""
    if spread is None:
        return ""
    low, middle, high = (f"{v:.0f}" if v >= 1000 else f"{v:.3g}" for v in vars(spread).values())
    return low if low == high else f"{low}~{middle}~{high}"


def _scaled(spread: Spread, factor: float) -> Spread:
    return Spread(spread.min * factor, spread.median * factor, spread.max * factor)
