"""Ends a run at SIGTERM, on all ranks at the same batch."""

import signal
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException


class StopOnSigterm(Callback):
    """Stops after the batch in which any rank got SIGTERM; loggers are finished on the way out.

    A single process leaves this to Lightning. With several, Lightning's handler broadcasts from
    within the signal, in the middle of whatever collective the training is in, and ranks leave at
    different batches; here the handler only takes a note, and the ranks agree after each batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._received = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replaces Lightning's handler, which stands since just before."""
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same where there is no sanity check."""
        self._listen(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stops between two batches, when the first one's metrics are logged."""
        self._stop_together(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stops within a validation; every rank validates as many batches."""
        self._stop_together(trainer)

    def _listen(self, trainer: Trainer) -> None:
        if trainer.world_size > 1:
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._received = True

    def _stop_together(self, trainer: Trainer) -> None:
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(
            self._received, all=False
        ):
            raise SIGTERMException
