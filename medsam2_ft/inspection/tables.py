"""Prints what was found in a folder of cases."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from medsam2_ft.entry import printable
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
    """Prints two tables with one row per modality: what there is, and how large it is."""
    title = f"{len(cases)} case{'' if len(cases) == 1 else 's'}"
    kinds = _table(title, ("modality", "cases", "splits", "kinds", "intensity"), ("cases",))
    columns = ("slices", "rows", "columns", "slice mm", "pixel mm")
    sizes = _table("sizes", ("modality", *columns), columns)
    for summary in summarize_modalities(cases):
        colour = {"colour": summary.colour} if summary.colour else {}
        rules = summary.rules
        kinds.add_row(
            summary.modality,
            str(summary.cases),
            _counts(summary.splits),
            _counts(summary.kinds | colour),
            _counts(rules) if len(rules) > 1 else next(iter(rules)),
        )
        sizes.add_row(
            summary.modality,
            *map(_range, (summary.depth, summary.height, summary.width)),
            _range(summary.slice_mm),
            _range(summary.pixel_mm),
        )
    console.print(kinds)
    console.print(sizes)


def print_labels(console: "Console", cases: Sequence[CaseFacts]) -> None:
    """Prints one row per modality and label."""
    from rich.text import Text

    numbers = ("cases", "slices", "voxels", "ml")
    table = _table("labels", ("modality", "label", "id", *numbers), numbers)
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
            Text(printable(summary.name or "")),  # not str, in which brackets are commands
            str(first) if first == last else f"{first}..{last}",
            str(summary.cases),
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
    """Prints one line per case: a table of so many columns would fit no terminal."""
    from rich.text import Text

    for case in cases:
        parts = [
            f"{case.modality or 'modality unknown'} {case.kind}",
            " x ".join(map(str, case.size_zyx)) + (" colour" if case.colour else ""),
            " x ".join(f"{value:.3g}" for value in case.spacing_mm) + " mm",
            f"{len(case.labels)} label{'' if len(case.labels) == 1 else 's'}",
            f"gray {case.gray_min}-{case.gray_max} mean {case.gray_mean:.0f}",
            rule_text(case.intensity),
        ]
        if case.kind != "3D":
            del parts[2]
        line = Text(f"{printable(case.file)}: ", style="bold").append(
            ", ".join(parts), style="not bold"
        )
        console.print(line, soft_wrap=True)
    console.print()


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
        lines = [
            printable(f"{' and '.join(problem.files[:4])}: {problem.text}")
            for problem in group[:_SHOWN]
        ]
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
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in columns:
        number = column in right
        table.add_column(
            column,
            justify="right" if number else "left",
            no_wrap=number or column in ("modality", "id"),
        )
    return table


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def _range(spread: Spread | None) -> str:
    """Smallest and largest number; one where they agree."""
    if spread is None:
        return ""
    low, high = (f"{v:.0f}" if v >= 1000 else f"{v:.3g}" for v in (spread.min, spread.max))
    return low if low == high else f"{low}-{high}"


def _scaled(spread: Spread, factor: float) -> Spread:
    return Spread(spread.min * factor, spread.median * factor, spread.max * factor)
