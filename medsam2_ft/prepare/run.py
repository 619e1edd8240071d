"""One run: what is up to date, what must be built, and where each case belongs in the end."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.build import Job, blank_record, build_case
from medsam2_ft.prepare.checksums import source_checksums
from medsam2_ft.prepare.folder import case_path, check_own, locate, place, remove, staged_path
from medsam2_ft.prepare.jobs import matched
from medsam2_ft.prepare.leakage import check_no_leak, families
from medsam2_ft.prepare.manifest import Journal, Manifest, Record, read_manifest, same_input
from medsam2_ft.prepare.patients import Veil
from medsam2_ft.prepare.pool import default_workers, run_jobs
from medsam2_ft.prepare.report import is_remarkable, outcome, progress
from medsam2_ft.prepare.splits import SPLITS, Split, SplitRule, split_groups

_HASH_THREADS = 4  # hashing waits for the disk and lets go of the interpreter


@dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
        manifest: All records of the output folder.
        current: The records of this input, sorted by name.
        ready: Names of the written cases that were up to date.
        earlier: Names of the cases of other inputs in the folder.
    """

    manifest: Manifest
    current: tuple[Record, ...]
    ready: frozenset[str]
    earlier: tuple[str, ...]


def run(
    out: Path,
    jobs: Sequence[Job],
    rule: SplitRule,
    given: Mapping[str, Split],
    *,
    workers: int | None,
    overwrite: bool,
    veil: Veil,
) -> Result:
    """Builds what is missing and puts every case into its split.

    Args:
        out: Output folder, locked.
        jobs: The cases of this input.
        rule: How they are split.
        given: The splits that a file gives, empty where there is none.
        workers: Number of processes; None for ``default_workers``.
        overwrite: Build everything again and split anew.
        veil: Keeps identifiers out of what is written.

    Raises:
        UserError: The folder holds something else or cannot be written, or cases of one patient,
            or with the same image, would be in different splits.
        KeyboardInterrupt: After Ctrl-C; finished cases are kept for the next run.
    """
    old = read_manifest(out)
    journal = Journal(out, veil)
    known = {**old.records, **journal.read()}
    check_own(out, known)
    ready = {} if overwrite else _up_to_date(out, jobs, known)
    todo = [job for job in jobs if job.pair.name not in ready]
    built = _build(todo, workers, journal)
    current = {record.name: record for record in [*(r for r, _ in ready.values()), *built]}
    earlier = _regrouped(_earlier(out, old, jobs, overwrite), rule.group)
    files = {name: path for name, (_, path) in ready.items() if path is not None}
    files |= {r.name: staged_path(out, r.name) for r in built if r.status == "written"}
    files |= {
        r.name: case_path(out, r.split, r.name) for r in earlier.values() if r.status == "written"
    }
    fixed = {} if rule.to_json() != old.split else earlier if overwrite else old.records
    records = _split({**earlier, **current}, rule, given, fixed)
    place(out, files, {name: records[name].split for name in files})
    for name in {*old.records, *current} - set(files):
        remove(out, name)
    return Result(
        manifest=Manifest(records, rule.to_json()),
        current=tuple(records[name] for name in sorted(current)),
        ready=frozenset(name for name, (_, path) in ready.items() if path is not None),
        earlier=tuple(sorted(earlier)),
    )


def checked_splits(rule: SplitRule, jobs: Sequence[Job]) -> dict[str, Split]:
    """Checks the split rule against the cases, before the work begins.

    Returns:
        The split of each case where a file gives it; otherwise empty.

    Raises:
        UserError: Shares out of range, or the file is unusable or spreads a group over splits.
    """
    names = [job.pair.name for job in jobs]
    given = rule.check(names, {job.pair.clear: job.pair.name for job in jobs})
    records = {job.pair.name: blank_record(job, {}) for job in jobs}
    check_no_leak(given, records, str(rule.file), "put them together")
    return given


def _up_to_date(
    out: Path, jobs: Sequence[Job], known: Mapping[str, Record]
) -> dict[str, tuple[Record, Path | None]]:
    """Finds the cases that need nothing, with their file (None for those without labels).

    Raises:
        UserError: A case of another input has the same name.
    """

    def look(job: Job) -> tuple[Record, Path | None] | None:
        old = known[job.pair.name]
        try:
            new = blank_record(job, source_checksums(job.pair))
        except UserError:
            return None  # building it says why
        if not same_input(old, new):
            _check_same_origin(out, old, new)
            return None
        path = locate(out, old) if old.status == "written" else None
        if old.status == "written" and path is None:
            return None
        return replace(old, root=job.root, group=job.group), path

    candidates = [
        job for job in jobs if job.pair.name in known and known[job.pair.name].status != "failed"
    ]
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        found = zip(candidates, pool.map(look, candidates), strict=True)
        return {job.pair.name: entry for job, entry in found if entry is not None}


def _check_same_origin(out: Path, old: Record, new: Record) -> None:
    if old.status == "written" and old.root != new.root and old.sources != new.sources:
        raise UserError(
            f"{out}: holds a case {old.name} that was made from another folder; give this input a "
            "--name_prefix or another output folder, or replace the case with --overwrite"
        )


def _build(jobs: Sequence[Job], workers: int | None, journal: Journal) -> list[Record]:
    done: list[Record] = []
    if not jobs:
        return done
    with progress("preparing", len(jobs), outcome, is_remarkable) as show:

        def finished(record: Record) -> None:
            journal.append(record)
            done.append(record)
            show(record)

        try:
            run_jobs(build_case, jobs, workers or default_workers(), finished)
        except KeyboardInterrupt:
            print(
                f"stopped: {len(done)} of {len(jobs)} cases are finished and kept; run the same "
                "command again to go on",
                flush=True,
            )
            raise
    return done


def _earlier(out: Path, old: Manifest, jobs: Sequence[Job], overwrite: bool) -> dict[str, Record]:
    """Cases of the folder that this input does not name and that stay.

    Written cases stay unless ``overwrite`` starts this input anew; what was skipped or failed
    stays only where it came from another input.
    """
    names = {job.pair.name for job in jobs}
    roots = {job.root for job in jobs}
    stay = {}
    for name, record in old.records.items():
        if record.status == "written":
            gone = not case_path(out, record.split, name).is_file()
            keep = not gone and not (overwrite and record.root in roots)
        else:
            keep = record.root not in roots
        if keep and name not in names:
            stay[name] = record
    return stay


def _regrouped(records: Mapping[str, Record], pattern: str | None) -> dict[str, Record]:
    """Groups earlier cases by this run's pattern, so that a patient's cases of all runs meet."""
    if pattern is None:
        return dict(records)
    groups = {name: matched(pattern, name) for name in records}
    return {name: replace(r, group=groups[name] or r.group) for name, r in records.items()}


def _split(
    records: Mapping[str, Record],
    rule: SplitRule,
    given: Mapping[str, Split],
    fixed: Mapping[str, Record],
) -> dict[str, Record]:
    """Gives every written record its split; cases in ``fixed`` keep theirs."""
    written = {name: record for name, record in records.items() if record.status == "written"}
    if rule.file is not None:
        stored = {
            name: split for name, r in written.items() for split in SPLITS if r.split == split
        }
        split_of = {name: split for name, split in {**stored, **given}.items() if name in written}
        check_no_leak(split_of, written, str(rule.file), "put them together")
    else:
        all_known = {**fixed, **written}
        kept = check_no_leak(
            {name: split for name, r in fixed.items() for split in SPLITS if r.split == split},
            all_known,
            "the splits of an earlier run",
            "another --seed splits anew, as --overwrite does",
        )
        family_of = families(all_known.values())
        of_family = split_groups(
            [family_of[name] for name in written],
            val_share=rule.val_share,
            test_share=rule.test_share,
            seed=rule.seed,
            fixed=kept,
        )
        split_of = {name: of_family[family_of[name]] for name in written}
    return {name: replace(record, split=split_of.get(name, "")) for name, record in records.items()}
