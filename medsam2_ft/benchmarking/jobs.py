"""One job per case, model and strategy: what a process needs to know, and how it does it."""

from dataclasses import dataclass, replace
from typing import Final

import torch

from medsam2_ft.benchmarking.cases import CaseSource
from medsam2_ft.benchmarking.records import Record
from medsam2_ft.benchmarking.scoring import score_case
from medsam2_ft.benchmarking.settings import UNKNOWN_MODALITY, Settings
from medsam2_ft.errors import UserError
from medsam2_ft.inspection.facts import kind_of
from medsam2_ft.propagate import Strategy
from medsam2_ft.segmenter import Segmenter

RANDOM_SEED: Final = 0
"""Random weights are the same in every process and at every start."""
RANDOM: Final = "random weights"
"""Stands in the key of a model without a file."""


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded in any process.

    Attributes:
        source: Name or file, see ``Segmenter.from_checkpoint``.
        image_size: Side of its input, None for its own.
        device: Where it runs.
    """

    source: str
    image_size: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Contender:
    """A model in the benchmark.

    Attributes:
        name: In tables.
        key: Tells its weights, input size and precision from others.
        where: How to load it.
        strategies: What it is run with.
    """

    name: str
    key: str
    where: ModelSource
    strategies: tuple[Strategy, ...]


@dataclass(frozen=True)
class Job:
    """One case for one model with one strategy.

    Attributes:
        case: The case.
        sha256: Checksum of its file.
        contender: The model.
        strategy: How masks are propagated.
        settings: Prompts and scoring.
        threads: PyTorch's threads in this process, 0 to leave them as they are.
    """

    case: CaseSource
    sha256: str
    contender: Contender
    strategy: Strategy
    settings: Settings
    threads: int = 0

    def blank(self) -> Record:
        """Returns the record with everything that is known before."""
        return Record(
            dataset=self.case.dataset,
            case=self.case.name,
            sha256=self.sha256,
            group=self.case.group,
            path=str(self.case.path.resolve()),
            model=self.contender.name,
            model_key=self.contender.key,
            strategy=self.strategy,
            settings=self.settings.fingerprint(),
            status="failed",
        )


class _Loaded:
    """The model that this process holds: one, for two large ones may not fit."""

    where: ModelSource | None = None
    segmenter: Segmenter | None = None


def model_key(segmenter: Segmenter, where: ModelSource) -> str:
    """Tells weights, input size and precision of a model from others."""
    weights = segmenter.sha256 or f"{where.source}, {RANDOM} (seed {RANDOM_SEED})"
    dtype = str(segmenter.dtype).removeprefix("torch.")
    return f"{weights}, {segmenter.image_size} px, {dtype}"


def load(where: ModelSource, *, anew: bool = False) -> Segmenter:
    """Loads a model, unless it is the one that this process holds already.

    Args:
        where: The model.
        anew: Load it in any case: its file may have changed.

    Raises:
        UserError: See ``Segmenter.from_checkpoint``.
    """
    if anew or _Loaded.segmenter is None or _Loaded.where != where:
        _Loaded.segmenter = None  # before the next one is loaded
        with torch.random.fork_rng():
            torch.manual_seed(RANDOM_SEED)
            _Loaded.segmenter = Segmenter.from_checkpoint(
                where.source, device=where.device, image_size=where.image_size
            )
        _Loaded.where = where
    return _Loaded.segmenter


def _load(contender: Contender) -> Segmenter:
    segmenter = load(contender.where)
    if model_key(segmenter, contender.where) != contender.key:
        raise UserError(f"{contender.where.source}: changed during the run; run it again")
    return segmenter


def run_job(job: Job) -> Record:
    """Segments and scores a case. What cannot be read or segmented becomes a failed record."""
    if job.threads and torch.get_num_threads() != job.threads:
        torch.set_num_threads(job.threads)
    record = job.blank()
    try:
        case = job.case.read()
        segmenter = _load(job.contender)
        scores = score_case(segmenter, case, job.settings, job.strategy)
    except UserError as error:
        return replace(record, reason=" ".join(str(error).split()))
    except (MemoryError, torch.OutOfMemoryError) as error:
        return replace(record, reason=f"not enough memory ({type(error).__name__})")
    except Exception as error:  # a defect: it passes, and says where it happened
        error.add_note(f"in case {job.case.path}, model {job.contender.name}, {job.strategy}")
        raise
    return replace(
        record,
        status="scored" if scores.objects else "empty",
        reason="" if scores.objects else "no object to segment",
        modality=case.modality or UNKNOWN_MODALITY,
        kind=kind_of(case),
        slices=len(case.image),
        frames=scores.frames,
        seconds=scores.cost.seconds,
        peak_rss_mb=scores.cost.peak_rss_mb,
        peak_cuda_mb=scores.cost.peak_cuda_mb,
        device=str(segmenter.device),
        objects=tuple(scores.objects),
    )
