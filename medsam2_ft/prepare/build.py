"""Makes one case: reads, checks, scales, cleans and writes it. Runs in a worker process."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medsam2_ft.errors import UserError
from medsam2_ft.io.npz import write_case
from medsam2_ft.prepare.checksums import sha256_of, source_checksums
from medsam2_ft.prepare.convert import NoLabelsError, make_case
from medsam2_ft.prepare.leakage import image_sha256
from medsam2_ft.prepare.manifest import Record
from medsam2_ft.prepare.pairing import Pair
from medsam2_ft.prepare.settings import Settings


@dataclass(frozen=True)
class Job:
    """One case to make.

    Attributes:
        pair: Source files.
        settings: How.
        group: See ``Record.group``.
        root: See ``Record.root``.
        target: The npz file to write.
    """

    pair: Pair
    settings: Settings
    group: str
    root: str
    target: Path


def blank_record(job: Job, sources: Mapping[str, str]) -> Record:
    """Returns the record of a case of which only the sources are known."""
    label = job.pair.label
    return Record(
        name=job.pair.name,
        status="failed",
        root=job.root,
        image=job.pair.veil.path(job.pair.image.relative).as_posix(),
        label=None if label is None else job.pair.veil.path(label.relative).as_posix(),
        sources=sources,
        settings=job.settings.to_json(),
        group=job.group,
    )


def build_case(job: Job) -> Record:
    """Makes one case.

    Bad input does not raise: the record's status is then ``failed`` with the reason, or
    ``skipped`` where the case has no labels.

    Args:
        job: What to make.

    Returns:
        The record, without a split.

    Raises:
        UserError: The case cannot be written; no other case could be, either.
    """
    record = blank_record(job, {})
    try:
        record = replace(record, sources=source_checksums(job.pair))
        case, details = make_case(job.pair, job.settings)
    except NoLabelsError as skip:
        return replace(record, status="skipped", reason=str(skip))
    except UserError as error:
        return replace(record, reason=_naming(job.pair, str(error)))
    except MemoryError:
        return replace(record, reason=f"{job.pair.image.path}: out of memory; use fewer --workers")
    try:
        write_case(job.target, case)
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise  # a full disk, not a bad case
        return replace(record, reason=_naming(job.pair, str(error)))
    series = job.pair.image.series
    details["notes"] = [*(() if series is None else series.notes), *details["notes"]]
    return replace(
        record,
        status="written",
        sha256=sha256_of(job.target),
        image_sha256=image_sha256(case.image),
        modality=case.modality or "",
        **details,
    )


def _naming(pair: Pair, reason: str) -> str:
    """Makes sure that a reason names the file."""
    files = (pair.image, pair.label)
    if any(file is not None and file.path.name in reason for file in files):
        return reason
    return f"{pair.image.path}: {reason}"
