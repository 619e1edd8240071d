"""One run of the benchmark: what is done already, what is missing, and what comes out."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from medsam2_ft.benchmarking.cases import CaseSource, Shard
from medsam2_ft.benchmarking.contenders import Lineup
from medsam2_ft.benchmarking.folder import RUN as RUN_FILE
from medsam2_ft.benchmarking.folder import (
    SHARDS,
    CaseKey,
    Plan,
    Run,
    differences,
    merge_shards,
    missing_shards,
    read_plan,
    shard_folder,
    unfinished,
    write_plan,
)
from medsam2_ft.benchmarking.jobs import Job, run_job
from medsam2_ft.benchmarking.records import Journal, Record, newest
from medsam2_ft.benchmarking.settings import Settings
from medsam2_ft.benchmarking.writing import write_pictures, write_tables
from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import make_folder
from medsam2_ft.prepare.pool import run_jobs
from medsam2_ft.prepare.report import progress

_HASH_THREADS: Final = 4  # hashing waits for the disk and lets go of the interpreter


@dataclass(frozen=True)
class Request:
    """What is to be evaluated, and where the results go.

    Attributes:
        cases: All of them, not only this shard's.
        lineup: The models.
        settings: Prompts and scoring.
        out: Results folder.
        shard: Which part of the cases, None for all.
        workers: Number of processes.
        threads: PyTorch's threads of each.
        figures: Whether figures are drawn.
        overlays: How many of the worst and of the best cases are drawn with them.
    """

    cases: Sequence[CaseSource]
    lineup: Lineup
    settings: Settings
    out: Path
    shard: Shard | None
    workers: int
    threads: int
    figures: bool
    overlays: int


def run_benchmark(request: Request) -> Run:
    """Evaluates what is missing and writes tables and figures.

    A shard writes its own tables into its own folder; the last one to finish merges all.

    Args:
        request: What and where.

    Returns:
        What the tables show: of all shards where this was the last one.

    Raises:
        UserError: The folder is in use or cannot be written, or a worker was killed.
        KeyboardInterrupt: After Ctrl-C; finished results are kept for the next start.
    """
    shard = request.shard
    folder = request.out if shard is None else shard_folder(request.out, shard.number, shard.count)
    if shard is None and (request.out / SHARDS).is_dir():
        raise UserError(
            f"{request.out}: holds shards; give --shard, or another --out for a run in one piece"
        )
    make_folder(folder)
    with _locked(folder):
        run = _evaluate(request, folder)
        if shard is None:
            _write(request, run)
        else:
            write_tables(folder, run)
    return run if shard is None else _merge_if_last(request, run)


def _merge_if_last(request: Request, run: Run) -> Run:
    """Merges the shards once all of them are there."""
    missing, count = missing_shards(request.out)
    if missing:
        print(f"{count - len(missing)} of {count} shards are finished; the last one merges them")
        return run
    with FileLock(request.out / ".merge.lock"):
        merged = merge_shards(request.out)
        _write(request, merged)
    return merged


def _write(request: Request, run: Run) -> None:
    """Writes tables and figures of all cases."""
    benchmark = write_tables(request.out, run)
    if request.figures:
        for line in write_pictures(request.out, benchmark, request.overlays):
            print(line)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from evaluating into the same folder.

    Raises:
        UserError: One is at work there.
    """
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(
            f"{folder}: another evaluate is at work in this folder; wait for its end, or give "
            "another --out"
        ) from error


def _evaluate(request: Request, folder: Path) -> Run:
    shard = request.shard
    cases = [case for case in request.cases if shard is None or shard.holds(case)]
    sums = _checksums(cases)
    plan = _plan(request, folder, sums)
    write_plan(folder, plan)
    journal = Journal(folder)
    known = newest(record for record in journal.read() if plan.is_about(record))
    ready = {record.key for record in known if record.status != "failed"}
    wanted = [
        Job(case, sums[case.key], contender, strategy, request.settings, request.threads)
        for contender in request.lineup.contenders
        for strategy in contender.strategies
        for case in cases
    ]
    todo = [job for job in wanted if job.blank().key not in ready]
    if len(todo) < len(wanted):
        print(f"{len(wanted) - len(todo)} of {len(wanted)} results are there already")
    done = _do(todo, request.workers, journal)
    records = newest([*known, *done])
    plan = replace(plan, complete=plan.expected() <= {record.key for record in records})
    write_plan(folder, plan)
    return Run(plan, records, unfinished(request.out.name, plan, records))


def _checksums(cases: Sequence[CaseSource]) -> dict[CaseKey, str]:
    """Checksum of each case; empty for a file that cannot be read, which then fails."""

    def look(case: CaseSource) -> str:
        try:
            return case.sha256()
        except UserError:
            return ""

    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        return {case.key: s for case, s in zip(cases, pool.map(look, cases), strict=True)}


def _plan(request: Request, folder: Path, sums: Mapping[CaseKey, str]) -> Plan:
    """This run's plan; models of an earlier one on the same cases stay in the tables."""
    models = {c.name: (c.key, tuple(map(str, c.strategies))) for c in request.lineup.contenders}
    shard = request.shard
    plan = Plan(
        settings=request.settings,
        cases=sums,
        models=models,
        skipped=request.lineup.skipped,
        shard=None if shard is None else (shard.number, shard.count),
    )
    if not (folder / RUN_FILE).is_file():
        return plan
    old = read_plan(folder)
    changed = differences(old.settings, plan.settings)
    if old.cases != plan.cases:
        changed.append("the cases")
    if changed:
        print(f"{folder}: earlier results of other models are left out ({'; '.join(changed)})")
        return plan
    joined = dict(old.models)
    for name, (key, strategies) in models.items():
        same = name in joined and joined[name][0] == key
        earlier = joined[name][1] if same else ()
        joined[name] = (key, tuple(dict.fromkeys((*earlier, *strategies))))
    skipped = {**old.skipped, **plan.skipped}
    return replace(
        plan, models=joined, skipped={n: why for n, why in skipped.items() if n not in joined}
    )


def _do(jobs: Sequence[Job], workers: int, journal: Journal) -> list[Record]:
    done: list[Record] = []
    if not jobs:
        return done
    with progress("evaluating", len(jobs), _outcome, _is_remarkable) as show:

        def finished(record: Record) -> None:
            journal.append(record)
            done.append(record)
            show(record)

        try:
            run_jobs(run_job, jobs, workers, finished)
        except KeyboardInterrupt:
            print(
                f"stopped: {len(done)} of {len(jobs)} results are finished and kept; run the same "
                "command again to go on",
                flush=True,
            )
            raise
    return done


def _outcome(record: Record) -> str:
    """One line about a finished record."""
    head = f"{record.dataset}/{record.case}, {record.model} ({record.strategy})"
    if record.status != "scored":
        return f"{head}: {record.status}: {record.reason}"
    mean = sum(one.dsc for one in record.objects) / len(record.objects)
    return f"{head}: DSC {mean:.3f}, {record.seconds:.1f} s"


def _is_remarkable(record: Record) -> bool:
    return record.status != "scored"
