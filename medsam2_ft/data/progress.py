"""How far training has come, so that a resumed run sees exactly the samples that are left.

Facts about Lightning (2.6) that this rests on:

* ``DataModule.load_state_dict`` runs before the loops' counters are restored, the first
  ``train_dataloader()`` and ``iter()`` after that but before any epoch hook;
* ``batch_progress.total.processed`` counts every finished batch of the run and is right in each
  checkpoint, whether it was saved after a batch, after validation or at the end of an epoch;
* ``Trainer.estimated_stepping_batches`` makes the loader and its iterator before the counters are
  restored; workers would fetch from the wrong place, so the module counts for itself;
* when a run is resumed at the end of an epoch, ``iter()`` may be called twice without a batch in
  between; so the position is computed from the counter each time, never advanced by a call.
"""

import warnings
from typing import Any

from lightning.pytorch import Trainer

from medsam2_ft.data.sampler import Position, TrainBatches, advance, batch_count


class TrainingProgress:
    """Position within the training data: where a fit began, plus the batches done since."""

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._batches: TrainBatches | None = None
        self._start = Position()
        self._start_count = 0
        self._moved = False

    def begin(self, trainer: Trainer | None, batches: TrainBatches) -> None:
        """Takes over a trainer and a sampler at the start of a fit.

        Args:
            trainer: The trainer; without one every epoch is the first.
            batches: Its sampler.
        """
        again = trainer is not None and trainer is self._trainer and self._batches is not None
        self._trainer, self._batches = trainer, batches
        if not again:  # a second fit of the same trainer goes on
            self._start, self._start_count, self._moved = Position(), self._count, False

    @property
    def position(self) -> Position:
        """Where training stands now."""
        if self._batches is None:
            return self._start
        position = advance(
            self._start,
            self._count - self._start_count,
            samples=self._batches.samples,
            global_batch=self._batches.global_batch,
            limit=self._limit,
        )
        if self._trainer is not None and self._trainer.overfit_batches:  # type: ignore[attr-defined] # set by its connector
            return Position(0, position.samples)  # the same batches in every epoch
        return position

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch, after ``limit_train_batches``; 0 without a sampler."""
        whole = 0 if self._batches is None else len(self._batches)
        return whole if self._limit is None else min(whole, self._limit)

    @property
    def _count(self) -> int:
        """Batches that this run has processed since its very beginning."""
        if self._trainer is None:
            return 0
        total: Any = self._trainer.fit_loop.epoch_loop.batch_progress.total
        return int(total.processed)

    @property
    def _limit(self) -> int | None:
        """Batches of an epoch where ``limit_train_batches`` cuts it short."""
        if self._trainer is None or self._batches is None:
            return None
        limit = self._trainer.limit_train_batches
        return limit if isinstance(limit, int) else int(len(self._batches) * limit)

    def state_dict(self) -> dict[str, Any]:
        """Returns the position and what it refers to."""
        position = self.position
        return {
            "epoch": position.epoch,
            "samples": position.samples,
            "batches": self._count,
            "global_batch": self._batches.global_batch if self._batches else 0,
            "data": self._batches.fingerprint if self._batches else "",
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at a saved position.

        An epoch of other data (cases, seed, share of negatives, weights) cannot be continued: it
        begins anew, with a warning.

        Args:
            state: What ``state_dict`` returned.
        """
        assert self._batches is not None, "begin() comes first"
        self._start = Position(int(state["epoch"]), int(state["samples"]))
        self._start_count = int(state["batches"])
        if state["data"] != self._batches.fingerprint:
            warnings.warn(
                "The training data differ from those of the checkpoint (cases, seed, share of "
                f"negatives or weights): epoch {self._start.epoch} begins anew.",
                stacklevel=2,
            )
            self._start, self._moved = Position(self._start.epoch), True
        self._moved |= state["global_batch"] != self._batches.global_batch
        # Lightning cannot see that these loaders are resumable; it looks for a stateful loader.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended")

    def align_trainer(self) -> None:
        """Tells Lightning how many batches of the resumed epoch are done, in today's batches.

        Needed where the batch size or the number of ranks changed: Lightning restored a count of
        batches of another size and would end the epoch too early or too late.
        """
        if not self._moved or self._trainer is None or self._batches is None:
            return
        self._moved = False
        progress = self._trainer.fit_loop.epoch_loop.batch_progress
        whole = len(self._batches)
        left = batch_count(self._batches.samples - self._start.samples, self._batches.global_batch)
        done = whole - left
        if progress.is_last_batch and done == 0:  # saved when an epoch was complete
            done = self.batches_per_epoch
        current: Any = progress.current
        shift = done - current.processed
        for name in ("ready", "started", "processed", "completed"):
            setattr(current, name, getattr(current, name) + shift)
