"""Segments whole validation volumes from one box per object, and scores them in 3D."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from tqdm.auto import tqdm  # type: ignore[import-untyped]  # ships no types

from medsam2_ft.callbacks.preemption import is_stopping, leave_validation
from medsam2_ft.checkpointing import write_in_run
from medsam2_ft.data.cases import NamedCase
from medsam2_ft.data.index import UNKNOWN_MODALITY
from medsam2_ft.errors import UserError
from medsam2_ft.evaluate import ObjectScore, score_volume
from medsam2_ft.io.atomic import write_text
from medsam2_ft.propagate import Strategy
from medsam2_ft.volume_prompts import ZRange

SCORES_FILE: Final = "volume_scores.csv"
# Instance labels come by the hundred; their scores stand in the table.
MAX_LOGGED_LABELS: Final = 64
_COLUMNS: Final = ("epoch", "step", *(field.name for field in fields(ObjectScore)))
_STRATEGIES: Final[dict[str, tuple[Strategy, ...]]] = {
    "box": ("box",),
    "memory": ("memory",),
    "both": ("box", "memory"),
}

Row = dict[str, Any]


class PropagationValidation(Callback):
    """Scores the volumes of a split after its slices, by propagation from each object's one box.

    Logs ``val/volume_dsc/<label>`` (mean over volumes), ``val/<modality>/volume_dsc`` (mean over
    the modality's labels, each counting the same however many volumes hold it) and
    ``val/volume_dsc`` (mean over modalities), and so for ``volume_nsd``. Volumes and videos are
    scored; images are scored with the slices, and here only where a split has nothing else. With
    ``strategies="both"`` these are the scores of ``box``, and those of
    ``memory`` stand under ``val/volume_dsc_memory`` and so on. ``z_range="full"`` is another
    protocol and adds ``_full`` to every name. Each volume is scored once, on whichever rank; all
    ranks log the same values, before checkpoint callbacks read them.

    During ``fit`` every score is a row of ``<run>/volume_scores.csv`` (and a table in Weights &
    Biases); ``validate`` and ``test`` write ``validate_volume_scores.csv`` and
    ``test_volume_scores.csv``.

    Args:
        every_n_epochs: Validates volumes after every n-th training epoch.
        strategies: ``box`` (box to box, for models fine-tuned on slices), ``memory`` (SAM2's own)
            or ``both``.
        tolerance_mm: Of the NSD.
        max_volumes: At most so many volumes, evenly spaced over the split; None takes all.
        z_range: ``object`` segments the slices from the object's first to its last, ``full`` all.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        strategies: Literal["box", "memory", "both"] = "box",
        tolerance_mm: float = 2.0,
        max_volumes: int | None = None,
        z_range: ZRange = "object",
    ) -> None:
        super().__init__()
        if every_n_epochs < 1:
            raise UserError(f"propagation.every_n_epochs={every_n_epochs}: give at least 1")
        if max_volumes is not None and max_volumes < 1:
            raise UserError(f"propagation.max_volumes={max_volumes}: give at least 1, or null")
        if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
            raise UserError(f"propagation.tolerance_mm={tolerance_mm}: give a distance in mm")
        self.every_n_epochs = every_n_epochs
        self.strategies = _STRATEGIES[strategies]
        self.tolerance_mm = tolerance_mm
        self.max_volumes = max_volumes
        self.z_range: ZRange = z_range

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs here because scores cannot be logged later, and checkpoints are saved later."""
        fitting = trainer.state.fn == "fit"
        if trainer.sanity_checking:
            return
        if fitting and (trainer.current_epoch + 1) % self.every_n_epochs != 0:
            return
        self._validate(
            trainer, pl_module, "val", SCORES_FILE if fitting else "validate_" + SCORES_FILE
        )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores the test volumes."""
        self._validate(trainer, pl_module, "test", "test_" + SCORES_FILE)

    def _validate(
        self, trainer: Trainer, pl_module: LightningModule, split: Literal["val", "test"], file: str
    ) -> None:
        cases = self._cases(trainer, split)
        own = self._score(trainer, pl_module, cases[trainer.global_rank :: trainer.world_size])
        leave_validation(trainer)
        scores = gather_scores(own)
        if not scores:
            raise UserError(f"the {split} volumes hold no labelled object: check their labels")
        for name, value in summarize(scores, self.strategies[0]).items():
            pl_module.log(f"{split}/{name}", value, sync_dist=True)
        if _dry_run_volumes(trainer):
            return
        rows = [
            {"epoch": trainer.current_epoch, "step": trainer.global_step, **asdict(score)}
            for score in scores
        ]
        target = Path(trainer.default_root_dir) / file
        write_in_run(trainer, lambda: append_rows(target, rows))
        if trainer.is_global_zero:
            _log_table(trainer, f"{split}/volume_scores", rows)

    def _cases(self, trainer: Trainer, split: Literal["val", "test"]) -> list[NamedCase]:
        cases: list[NamedCase] = trainer.datamodule.volumes(split)  # type: ignore[attr-defined]
        limit = _dry_run_volumes(trainer) or self.max_volumes or len(cases)
        picked = np.linspace(0, len(cases) - 1, min(limit, len(cases))).round().astype(int)
        return [cases[i] for i in picked]

    def _score(
        self, trainer: Trainer, pl_module: LightningModule, cases: Sequence[NamedCase]
    ) -> list[ObjectScore]:
        scores: list[ObjectScore] = []
        for case in _with_progress(trainer, cases):
            if is_stopping(trainer):  # a whole split may take longer than we are given
                break
            try:
                scores += score_volume(
                    pl_module.model,  # type: ignore[arg-type]
                    case.read(),
                    strategies=self.strategies,
                    tolerance_mm=self.tolerance_mm,
                    z_range=self.z_range,
                    regions=trainer.datamodule.regions,  # type: ignore[attr-defined]
                    dtype=autocast_dtype(trainer.precision),
                )
            except Exception as error:  # whatever it is, it is raised again with the name
                error.add_note(f"while segmenting the volume {case.path}")
                raise
        return scores


def autocast_dtype(precision: str) -> torch.dtype:
    """Returns the type in which a trainer of this ``precision`` computes, float32 if in doubt."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else torch.float32


def gather_scores(own: list[ObjectScore]) -> list[ObjectScore]:
    """Returns the scores of all ranks in an order that does not depend on their number."""
    scores = own
    if dist.is_available() and dist.is_initialized():
        parts: list[list[ObjectScore]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, own)
        scores = [score for part in parts for score in part]
    return sorted(scores, key=lambda s: (s.case, s.strategy, s.label))


def summarize(scores: Sequence[ObjectScore], first: Strategy) -> dict[str, float]:
    """Means of DSC and NSD by strategy, modality and label, under the names that are logged.

    Args:
        scores: At least one; NaN values are left out of the means.
        first: The strategy whose names carry no suffix.

    Returns:
        ``volume_dsc``, ``volume_nsd``, the same with ``/<label name>`` behind (a mean over the
        volumes of any modality) and with ``<modality>/`` in front (unless none is stated), then
        those of the other strategy. In a modality each label has the same weight; overall each
        modality has.
    """
    values: dict[str, float] = {}
    for strategy in sorted({s.strategy for s in scores}, key=lambda s: s != first):
        chosen = [s for s in scores if s.strategy == strategy]
        labels = {s.label_name for s in chosen}
        suffix = "" if strategy == first else f"_{strategy}"
        suffix += "_full" if chosen[0].z_range == "full" else ""
        for metric in ("dsc", "nsd"):
            by_modality = {
                modality or UNKNOWN_MODALITY: _nanmean(list(_label_means(own, metric).values()))
                for modality, own in _by_modality(chosen).items()
            }
            values[f"volume_{metric}{suffix}"] = _nanmean(list(by_modality.values()))
            if set(by_modality) != {UNKNOWN_MODALITY}:
                values |= {f"{m}/volume_{metric}{suffix}": v for m, v in by_modality.items()}
            if len(labels) <= MAX_LOGGED_LABELS:
                by_label = _label_means(chosen, metric)
                values |= {f"volume_{metric}{suffix}/{name}": v for name, v in by_label.items()}
        if len(labels) > MAX_LOGGED_LABELS:
            rank_zero_warn(f"{len(labels)} labels: scores by label stand in {SCORES_FILE} alone")
    return values


def _by_modality(scores: Sequence[ObjectScore]) -> dict[str | None, list[ObjectScore]]:
    groups: dict[str | None, list[ObjectScore]] = {}
    for score in sorted(scores, key=lambda s: s.modality or ""):
        groups.setdefault(score.modality, []).append(score)
    return groups


def _label_means(scores: Sequence[ObjectScore], metric: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for score in sorted(scores, key=lambda s: s.label_name):
        values.setdefault(score.label_name, []).append(getattr(score, metric))
    return {name: _nanmean(own) for name, own in values.items()}


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    """Adds rows to a score table, atomically.

    Rows of the same or a later step go first: they are from a start that was killed and resumed
    before them.
    """
    kept: list[Row] = []
    if path.is_file():
        with path.open(newline="") as file:
            kept = [r for r in csv.DictReader(file) if int(r["step"]) < rows[0]["step"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*kept, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())


def _dry_run_volumes(trainer: Trainer) -> int:
    """Number of batches, here volumes, of a ``fast_dev_run``; 0 for a real run."""
    return int(trainer.fast_dev_run)  # type: ignore[attr-defined]  # set dynamically


def _with_progress(trainer: Trainer, cases: Sequence[NamedCase]) -> Iterator[NamedCase]:
    """Iterates with a bar beside the trainer's own, if that is shown."""
    bar = trainer.progress_bar_callback
    if bar is None or not trainer.is_global_zero:
        yield from cases
    elif isinstance(bar, RichProgressBar) and bar.progress is not None:
        # Rich captures what tqdm would write, so the volumes become a line of its display.
        task = bar.progress.add_task("Volumes", total=len(cases))
        try:
            for case in cases:
                yield case
                bar.progress.update(task, advance=1)
                bar.progress.refresh()
        finally:
            bar.progress.remove_task(task)
    else:
        yield from tqdm(cases, "Volumes", leave=False, dynamic_ncols=True)


def _log_table(trainer: Trainer, name: str, rows: Sequence[Row]) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            data = [[row[column] for column in _COLUMNS] for row in rows]
            logger.log_table(name, columns=list(_COLUMNS), data=data, step=trainer.global_step)


def _nanmean(values: Sequence[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return sum(finite) / len(finite) if finite else math.nan
