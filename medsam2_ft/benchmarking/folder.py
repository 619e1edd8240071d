"""A results folder: what was run (``run.json``), the records, and merging of folders."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from medsam2_ft.benchmarking.records import Journal, Record, newest
from medsam2_ft.benchmarking.settings import FORMAT, Settings
from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import write_json

RUN: Final = "run.json"
SHARDS: Final = "shards"

CaseKey = tuple[str, str]


@dataclass(frozen=True)
class Plan:
    """What a results folder is about.

    Attributes:
        settings: Prompts and scoring.
        cases: Checksum by data set and case.
        models: Key and strategies by name of the model.
        skipped: Models that could not be run -> why.
        shard: Which part of how many, None for all cases.
        complete: Whether every case has a record for every model and strategy.
    """

    settings: Settings
    cases: Mapping[CaseKey, str]
    models: Mapping[str, tuple[str, tuple[str, ...]]]
    skipped: Mapping[str, str] = field(default_factory=dict)
    shard: tuple[int, int] | None = None
    complete: bool = False

    def expected(self) -> set[tuple[str, str, str, str]]:
        """Returns the keys of all records of a complete run."""
        return {
            (*case, model, strategy)
            for case in self.cases
            for model, (_, strategies) in self.models.items()
            for strategy in strategies
        }

    def is_about(self, record: Record) -> bool:
        """Whether a record was made from these cases and models with these settings."""
        key, strategies = self.models.get(record.model, ("", ()))
        return (
            record.settings == self.settings.fingerprint()
            and self.cases.get(record.case_key) == record.sha256
            and record.model_key == key
            and record.strategy in strategies
        )

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return {
            "settings": self.settings.to_json(),
            "cases": [[*key, sha256] for key, sha256 in sorted(self.cases.items())],
            "models": {
                name: {"key": key, "strategies": list(strategies)}
                for name, (key, strategies) in self.models.items()
            },
            "skipped": dict(self.skipped),
            "shard": self.shard,
            "complete": self.complete,
        }


@dataclass(frozen=True)
class Run:
    """A plan and what was found so far.

    Attributes:
        plan: What was to be done.
        records: At most one of each (case, model, strategy), sorted.
        notes: What a reader should know.
    """

    plan: Plan
    records: Sequence[Record]
    notes: Sequence[str] = ()


def write_plan(folder: Path, plan: Plan) -> None:
    """Writes ``run.json``.

    Raises:
        UserError: The folder cannot be written.
    """
    write_json(folder / RUN, plan.to_json())


def read_plan(folder: Path) -> Plan:
    """Reads ``run.json``.

    Raises:
        UserError: It is missing or damaged, or another version made it.
    """
    path = folder / RUN
    if not path.is_file():
        raise UserError(
            f"{folder}: holds no results ({RUN} is missing); give a folder that "
            "`medsam2-ft evaluate` wrote with --out"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(content["settings"])
        version = settings.pop("format")
        if version != FORMAT:
            raise UserError(
                f"{path}: was written by another version (format {version}, here {FORMAT}); "
                "evaluate again"
            )
        return Plan(
            settings=Settings(**settings),
            cases={(dataset, case): sha256 for dataset, case, sha256 in content["cases"]},
            models={
                name: (entry["key"], tuple(entry["strategies"]))
                for name, entry in content["models"].items()
            },
            skipped=content["skipped"],
            shard=tuple(content["shard"]) if content["shard"] else None,
            complete=content["complete"],
        )
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be used ({error!r}); evaluate again") from error


def read_run(folder: Path) -> Run:
    """Reads a results folder, its shards merged where it has any.

    Raises:
        UserError: It holds no results, or shards are missing or do not belong together.
    """
    if (folder / SHARDS).is_dir():
        return merge_shards(folder)
    plan = read_plan(folder)
    records = newest(r for r in Journal(folder).read() if plan.is_about(r))
    return Run(plan, records, unfinished(folder.name, plan, records))


def unfinished(name: str, plan: Plan, records: Sequence[Record]) -> list[str]:
    """Returns a line where results of the plan are missing."""
    missing = len(plan.expected() - {record.key for record in records})
    if not missing:
        return []
    return [f"{name}: unfinished, {missing} of {len(plan.expected())} results are missing"]


def shard_folder(out: Path, number: int, count: int) -> Path:
    """Returns where a shard keeps its results."""
    return out / SHARDS / f"{number}-of-{count}"


def missing_shards(out: Path) -> tuple[list[int], int]:
    """Finds the shards that are not complete.

    Returns:
        Their numbers, and the number of all shards.

    Raises:
        UserError: A folder below ``shards`` is damaged, or there are parts of several divisions.
    """
    plans = [read_plan(path.parent) for path in sorted((out / SHARDS).glob(f"*/{RUN}"))]
    counts = sorted({plan.shard[1] for plan in plans if plan.shard})
    if len(counts) != 1:
        raise UserError(
            f"{out / SHARDS}: holds shards of {' and '.join(map(str, counts)) or 'no'} parts, "
            "which do not belong together; remove the older ones"
        )
    done = {plan.shard[0] for plan in plans if plan.shard and plan.complete}
    return [number for number in range(1, counts[0] + 1) if number not in done], counts[0]


def merge_shards(out: Path) -> Run:
    """Puts the shards of one benchmark together.

    Raises:
        UserError: One is missing or unfinished, or they were run with other settings or models.
    """
    missing, count = missing_shards(out)
    if missing:
        raise UserError(
            f"{out}: shards {', '.join(map(str, missing))} of {count} are not finished; run "
            f"`medsam2-ft evaluate` with --shard {missing[0]}/{count}, then report again"
        )
    folders = [shard_folder(out, number, count) for number in range(1, count + 1)]
    plans = [read_plan(folder) for folder in folders]
    for folder, plan in zip(folders[1:], plans[1:], strict=True):
        differing = [*differences(plans[0].settings, plan.settings), *_models(plans[0], plan)]
        if differing:
            raise UserError(
                f"{folders[0]} and {folder} do not belong together: {'; '.join(differing)}; "
                "run the shards with the same options"
            )
    merged = replace(
        plans[0],
        cases={key: sha256 for plan in plans for key, sha256 in plan.cases.items()},
        shard=None,
    )
    found = [record for folder in folders for record in Journal(folder).read()]
    return Run(merged, newest(record for record in found if merged.is_about(record)))


def differences(first: Settings, second: Settings) -> list[str]:
    """Says what differs, as ``protocol middle and paper``."""
    a, b = first.to_json(), second.to_json()
    return [f"{name} {a[name]} and {b[name]}" for name in a if a[name] != b[name]]


def _models(first: Plan, second: Plan) -> list[str]:
    names = [*first.models, *(name for name in second.models if name not in first.models)]
    return [
        f"the model {name}" for name in names if first.models.get(name) != second.models.get(name)
    ]


def merge_runs(folders: Sequence[Path]) -> Run:
    """Puts runs of different models on the same cases together.

    Args:
        folders: Results folders; at least one.

    Raises:
        UserError: They cannot be compared; says what differs.
    """
    runs = [read_run(folder) for folder in folders]
    first = runs[0]
    for folder, run in zip(folders[1:], runs[1:], strict=True):
        differing = [
            *differences(first.plan.settings, run.plan.settings),
            *_case_differences(first.plan.cases, run.plan.cases),
            *_conflicts(first.plan, run.plan),
        ]
        if differing:
            raise UserError(
                f"{folders[0]} and {folder} cannot be compared: {'; '.join(differing)}; evaluate "
                "all models on the same cases with the same options"
            )
        first = _joined(first, run)
    return first


def _case_differences(first: Mapping[CaseKey, str], second: Mapping[CaseKey, str]) -> list[str]:
    found = []
    for place, alone in (
        ("first", sorted(first.keys() - second.keys())),
        ("second", sorted(second.keys() - first.keys())),
    ):
        if alone:
            found.append(f"{len(alone)} cases only in the {place} ({'/'.join(alone[0])}, ...)")
    changed = [key for key in sorted(first.keys() & second.keys()) if first[key] != second[key]]
    if changed:
        found.append(f"{len(changed)} cases with other content ({'/'.join(changed[0])}, ...)")
    return found


def _conflicts(first: Plan, second: Plan) -> list[str]:
    return [
        f"{name} is not the same model in both"
        for name in first.models.keys() & second.models.keys()
        if first.models[name][0] != second.models[name][0]
    ]


def _joined(first: Run, second: Run) -> Run:
    models = dict(first.plan.models)
    for name, (key, strategies) in second.plan.models.items():
        known = models.get(name, (key, ()))[1]
        models[name] = (key, tuple(dict.fromkeys((*known, *strategies))))
    skipped = {**first.plan.skipped, **second.plan.skipped}
    plan = replace(
        first.plan,
        models=models,
        skipped={name: why for name, why in skipped.items() if name not in models},
        complete=first.plan.complete and second.plan.complete,
    )
    return Run(plan, newest([*first.records, *second.records]), [*first.notes, *second.notes])
