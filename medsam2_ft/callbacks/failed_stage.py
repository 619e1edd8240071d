"""Remembers what a run was doing when an error ended it."""

from lightning.pytorch import Callback, LightningModule, Trainer


class FailedStage(Callback):
    """Holds ``train``, ``sanity_check``, ``validate``, ... once an error has been raised.

    Lightning forgets its own note of it before the error reaches the caller.
    """

    def __init__(self) -> None:
        self.stage: str | None = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Called by Lightning."""
        if trainer.state.stage is not None:
            self.stage = trainer.state.stage.value
