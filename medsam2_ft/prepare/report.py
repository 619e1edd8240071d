"""What prepare says on the terminal: progress while it works, and a summary."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from medsam2_ft.entry import printable
from medsam2_ft.io.mask_values import ONE_COLOUR
from medsam2_ft.prepare.cleanup import DROP_RULES, INSTANCE_BASE, Cleanup
from medsam2_ft.prepare.manifest import Record
from medsam2_ft.prepare.splits import SPLITS

Done = TypeVar("Done")

_SHOWN = 10  # how many names a line lists
_SPEED_SECONDS = 600.0  # over how long the bar averages the speed
_LONG_SECONDS = 60  # from when on plain lines say how long it still takes


def outcome(record: Record) -> str:
    """Returns one line about a finished case."""
    if record.status != "written":
        return f"{record.name}: {record.status}: {printable(record.reason)}"
    dropped = sum(drop["objects"] for drop in record.dropped)
    parts = [f"{len(record.labels)} label{'s' if len(record.labels) != 1 else ''}"]
    if dropped:
        parts.append(f"{dropped} object{'s' if dropped != 1 else ''} dropped")
    return printable(f"{record.name}: {', '.join([*parts, *record.notes])}")


def remaining(seconds: float) -> str:
    """Returns how long it still takes as ``, 12 min left``; empty under a minute."""
    if seconds < _LONG_SECONDS:
        return ""
    minutes = round(seconds / 60)
    return f", {minutes} min left" if minutes < 120 else f", {round(minutes / 60)} h left"


def is_remarkable(record: Record) -> bool:
    """Whether a finished case deserves a line where there is a bar."""
    return record.status != "written" or bool(record.notes)


@contextmanager
def progress(
    title: str,
    total: int,
    outcome: Callable[[Done], str],
    is_remarkable: Callable[[Done], bool],
) -> Iterator[Callable[[Done], None]]:
    """Shows how far the work is and how long it still takes: a bar, or plain lines in a log file.

    Args:
        title: What is being done.
        total: Number of jobs.
        outcome: One line about a finished job.
        is_remarkable: Whether that line is shown beside a bar, too.

    Yields:
        A function to call with the result of every finished job.
    """
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        done, started = 0, time.monotonic()

        def line(result: Done) -> None:
            nonlocal done
            done += 1
            left = (time.monotonic() - started) / done * (total - done)
            print(f"[{done}/{total}{remaining(left)}] {outcome(result)}", flush=True)

        yield line
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # a case may take half a minute, so that the speed of the last seconds says little
    with Progress(*columns, console=console, speed_estimate_period=_SPEED_SECONDS) as bar:
        task = bar.add_task(title, total=total)

        def advance(result: Done) -> None:
            if is_remarkable(result):
                bar.console.print(outcome(result), markup=False)
            bar.advance(task)

        yield advance


def print_summary(
    current: Sequence[Record],
    kept: int,
    lists: Mapping[str, Sequence[str]],
    warnings: Iterable[str],
    where: str,
) -> None:
    """Prints what was done.

    Args:
        current: All records of this input.
        kept: How many of the written cases were up to date already.
        lists: Names by what is to be said of them; empty lists are not shown.
        warnings: Further lines.
        where: The output folder.
    """
    written = [record for record in current if record.status == "written"]
    counts = Counter(record.split for record in written)
    shares = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
    if kept == len(written) and written:
        print(f"nothing to do: {_cases(kept)} up to date in {where} ({shares})")
    else:
        print(
            f"{_cases(len(written))} in {where} ({shares}): {len(written) - kept} built, "
            f"{kept} up to date"
        )
    skipped = [
        f"{record.name} ({record.reason})" for record in current if record.status == "skipped"
    ]
    _print_list("skipped", skipped)
    for title, names in lists.items():
        _print_list(title, names)
    for rule, text in _dropped(written):
        print(f"{rule} dropped {text}")
    for warning in warnings:
        print(f"warning: {printable(warning)}")


def _cases(count: int) -> str:
    return f"{count} case{'s' if count != 1 else ''}"


def _print_list(title: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        print(f"{title} ({len(names)}): {printable(', '.join(names[:_SHOWN]))}{more}")


def _dropped(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Per rule, what the label clean-up removed from all cases."""
    for rule in DROP_RULES:
        drops = [drop for record in records for drop in record.dropped if drop["rule"] == rule]
        if drops:
            objects = sum(drop["objects"] for drop in drops)
            voxels = sum(drop["voxels"] for drop in drops)
            labels = sorted({drop["label"] for drop in drops})
            yield rule, f"{objects} objects, {voxels} voxels of labels {labels}"


def warnings_about(records: Sequence[Record], rules: Iterable[Cleanup]) -> list[str]:
    """Lists what a user should look at.

    Args:
        records: Records of this input.
        rules: The label clean-up of its cases.

    Returns:
        One line per finding: a rule that names a label which no case has, a label id that has
        different names in different cases, colours that were taken for one label, and a missing
        validation or training split.
    """
    written = [record for record in records if record.status == "written"]
    if not written:
        return []
    found = [*_absent_labels(written, rules), *_name_conflicts(written), *_colours(written)]
    for split, use in (("val", "to select the best model by"), ("train", "to train on")):
        if not any(record.split == split for record in written):
            found.append(f"no case is in {split}; there is nothing {use}")
    return found


def _absent_labels(records: Sequence[Record], rules: Iterable[Cleanup]) -> Iterator[str]:
    """Rules with ids of which no case has a label: mistyped, most often."""
    dropped = {drop["label"] for record in records for drop in record.dropped}
    present = {entry["id"] for record in records for entry in record.labels} | dropped
    present |= {label // INSTANCE_BASE for label in present}
    in_files = present.copy()
    for record in records:
        for entry in record.labels:
            in_files.update(entry.get("merged", ()))
    named: dict[str, set[int]] = defaultdict(set)
    for rule in rules:
        named["drop_labels"] |= set(rule.drop_labels) - in_files
        named["keep"] |= set(rule.keep or ()) - in_files
        named["instances_of"] |= set(rule.instances_of) - present
        named["ids_by_name"] |= set(rule.ids_by_name.values()) - present
        for new, ids in rule.merge.items():
            if new not in dropped:  # else nothing tells what it was made of
                named["merge"] |= set(ids) - in_files
    for option, labels in named.items():
        if labels:
            yield f"{option} names labels that no case has: {sorted(labels)}"


def _colours(records: Sequence[Record]) -> Iterator[str]:
    """Files of one input whose only colour, always taken for label 1, is not the same."""
    first: dict[str, dict[str, str]] = defaultdict(dict)
    for record in records:
        for note in record.notes:
            match = ONE_COLOUR.fullmatch(note)
            if match:
                first[record.root].setdefault(match[1], record.name)
    for colours in first.values():
        if len(colours) > 1:
            shown = ", ".join(f"{colour} in {name}" for colour, name in list(colours.items())[:3])
            yield (
                f"{len(colours)} colours became label 1 ({shown}); if they mean different things, "
                "list them as 'values: {legend: ...}' in --label_rules"
            )


def _name_conflicts(records: Sequence[Record]) -> list[str]:
    """Label ids that mean different things in different cases; scores per label would mix them."""
    names: dict[int, dict[str, str]] = {}
    for record in records:
        for entry in record.labels:
            if entry["name"] is not None:
                names.setdefault(entry["id"], {}).setdefault(entry["name"], record.name)
    return [
        f"label {label} has several names ("
        + ", ".join(f"{name} in {case}" for name, case in list(by_name.items())[:3])
        + "); scores per label would mix them: give --label_names, or renumber the labels"
        for label, by_name in sorted(names.items())
        if len(by_name) > 1
    ]
