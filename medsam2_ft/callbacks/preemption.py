"""Leaves a run that is told to stop: saved, requeued, on all ranks at the same step."""

import signal
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from medsam2_ft.checkpointing import GO_ON, LastCheckpoint, last_checkpoint_of, work_follows
from medsam2_ft.ranks import agreed_signal, from_first, stop_together
from medsam2_ft.slurm import job_id, requeue
from medsam2_ft.stop_signals import EXIT_OF_SIGNAL, Stopped, received


class Preemption(Checkpoint):
    """Saves ``last.ckpt`` and ends the run after SIGUSR1 or SIGTERM; requeues a SLURM job.

    Signals are only noted (`stop_signals`). The ranks agree after every optimiser step and between
    the batches of a validation, where all of them are at the same point. In a validation the
    checkpoint says that it is still to be done, from its beginning. Before training, and in
    ``validate``, ``test`` and ``predict``, there is nothing to save.

    Exit codes, on all ranks: 0 after SIGUSR1 or when the job is requeued; 128 + signal otherwise.

    A subclass of Lightning's ``Checkpoint`` so that it runs after validation scores are in; it
    must stand behind `LastCheckpoint` in the list of callbacks.
    """

    def __init__(self) -> None:
        super().__init__()
        self._leaving: signal.Signals | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keeps Lightning's handlers out; leaves if a signal came while the store was built."""
        _silence_lightning(trainer)
        self._leaving = None
        stop_together()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves behind an optimiser step; what follows before the next one saves for itself."""
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        self._leaving = agreed_signal()
        if self._leaving is not None and not work_follows(trainer):
            _save(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leaves when the metrics of the step that was saved are logged, too."""
        if self._leaving is not None:
            leave(trainer, self._leaving)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves before a validation begins."""
        leave_validation(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leaves within a validation; every rank validates as many batches."""
        leave_validation(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves between two epochs; a training that is over ends by itself."""
        signum = agreed_signal()
        if signum is not None and not trainer.fit_loop.done:
            _save(trainer)
            leave(trainer, signum)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leaves within a test."""
        stop_together()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leaves between two cases; ranks may have different numbers of them, so each by itself."""
        signum = received()
        if signum is not None:
            raise Stopped(signum)


def is_stopping(trainer: Trainer) -> bool:
    """Whether this process has got a signal; passes it on to processes that it has started."""
    signum = received()
    launcher = trainer.strategy.launcher
    if signum is not None and launcher is not None:
        launcher.kill(signum)
    return signum is not None


def leave_validation(trainer: Trainer) -> None:
    """Leaves a validation, on all ranks, if any has got a signal; all must ask at the same point.

    Raises:
        Stopped: One has.
    """
    signum = agreed_signal()
    if signum is None:
        return
    if trainer.state.fn != "fit" or trainer.sanity_checking:
        raise Stopped(signum)
    # In the middle of an accumulation there is nothing to resume from: the gradients would be lost.
    if not trainer.fit_loop.epoch_loop._should_accumulate():
        _save(trainer)
    leave(trainer, signum)


def leave(trainer: Trainer, signum: signal.Signals) -> None:
    """Requeues the job, if there is one, and ends the training on all ranks.

    Raises:
        Stopped: Always.
    """
    last = last_checkpoint_of(trainer)
    at = f"stopped by {signum.name} at step {trainer.global_step}"
    saved = last is not None and last.saved_step == trainer.global_step
    at += ", saved" if saved else ", not saved"
    job = job_id()
    if job is None:
        code = 0 if signum != signal.SIGTERM else EXIT_OF_SIGNAL + signum
        raise Stopped(signum, f"{at}; {GO_ON}", code)
    outcome = from_first(requeue(job, signum) if trainer.is_global_zero else None)
    assert outcome is not None
    code = 0 if outcome.done else EXIT_OF_SIGNAL + signum
    raise Stopped(signum, f"{at}; {outcome.message}" + ("" if outcome.done else f"; {GO_ON}"), code)


def _save(trainer: Trainer) -> None:
    last: LastCheckpoint | None = last_checkpoint_of(trainer)
    if last is not None:
        last.save(trainer)


def _silence_lightning(trainer: Trainer) -> None:
    """Lightning's SIGTERM handler runs a collective in the middle of whatever is going on.

    Its loop also broadcasts whether there was a SIGTERM, before each batch and with a wait for the
    GPU.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None
    loop: Any = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = lambda: None
