"""One run: what is up to date, what must be built, and where each case belongs in the end."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.build import Job, blank_record
from medsam2_ft.prepare.checksums import source_checksums
from medsam2_ft.prepare.folder import case_path, check_own, locate, place, remove, staged_path
from medsam2_ft.prepare.manifest import Journal, Manifest, Record, read_manifest, same_input
from medsam2_ft.prepare.pairing import Pair
from medsam2_ft.prepare.pool import default_workers, run_jobs
from medsam2_ft.prepare.report import progress
from medsam2_ft.prepare.settings import Settings
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


def make_jobs(
    pairs: Sequence[Pair], settings: Settings, images: Path, out: Path, group: str | None
) -> list[Job]:
    """Makes one job per pair.

    Args:
        pairs: Source files.
        settings: How cases are made.
        images: The image folder or file.
        out: Output folder.
        group: Pattern of the patient in a case's name; its first group if it has one.

    Raises:
        UserError: The pattern is invalid or does not match a name.
    """
    folder = (images.parent if images.is_file() else images).resolve()
    root = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return [
        Job(pair, settings, _group(pair, group), root, staged_path(out, pair.name))
        for pair in pairs
    ]


def _group(pair: Pair, pattern: str | None) -> str:
    if pattern is None:
        # Several images of one label file (sequences, channels) show the same patient.
        return (pair.label or pair.image).relative.as_posix()
    group = _matched(pattern, pair.name)
    if group is None:
        raise UserError(f"--group {pattern!r} does not match the case {pair.name}; correct it")
    return group


def _matched(pattern: str, name: str) -> str | None:
    """The part of a name that tells the patient: the pattern's first group, or the whole match."""
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise UserError(f"--group {pattern!r} is no regular expression ({error})") from error
    return None if match is None else match.group(1 if match.re.groups else 0)


def run(
    out: Path,
    jobs: Sequence[Job],
    rule: SplitRule,
    given: Mapping[str, Split],
    *,
    workers: int | None,
    overwrite: bool,
) -> Result:
    """Builds what is missing and puts every case into its split.

    Args:
        out: Output folder, locked.
        jobs: The cases of this input.
        rule: How they are split.
        given: The splits that a file gives, empty where there is none.
        workers: Number of processes; None for ``default_workers``.
        overwrite: Build everything again and split anew.

    Raises:
        UserError: The folder holds something else, or cannot be written.
        KeyboardInterrupt: After Ctrl-C; finished cases are kept for the next run.
    """
    old = read_manifest(out)
    journal = Journal(out)
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
    with progress(len(jobs)) as show:

        def finished(record: Record) -> None:
            journal.append(record)
            done.append(record)
            show(record)

        try:
            run_jobs(jobs, workers or default_workers(), finished)
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
    groups = {name: _matched(pattern, name) for name in records}
    return {name: replace(r, group=groups[name] or r.group) for name, r in records.items()}


def _split(
    records: Mapping[str, Record],
    rule: SplitRule,
    given: Mapping[str, Split],
    fixed: Mapping[str, Record],
) -> dict[str, Record]:
    """Gives every written record its split; cases in ``fixed`` keep theirs."""
    written = {name: record for name, record in records.items() if record.status == "written"}
    kept: dict[str, Split] = {
        record.group: split
        for record in fixed.values()
        for split in SPLITS
        if record.split == split
    }
    if rule.file is not None:
        split_of = {name: given.get(name, record.split) for name, record in written.items()}
    else:
        of_group = split_groups(
            [record.group for record in written.values()],
            val_share=rule.val_share,
            test_share=rule.test_share,
            seed=rule.seed,
            fixed=kept,
        )
        split_of = {name: of_group[record.group] for name, record in written.items()}
    return {name: replace(record, split=split_of.get(name, "")) for name, record in records.items()}
