"""Exports the best and the last weights of a run as official SAM2 files."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from medsam2_ft.checkpointing import BestCheckpoint, write_in_run
from medsam2_ft.export import CHECKPOINT_KEY, ExportInfo, export, write_export
from medsam2_ft.sam2_adapter import Sam2


def export_folder(run: str | Path) -> Path:
    """Returns where a run keeps its exports: ``best.pt``, ``last.pt`` and their sidecars."""
    return Path(run) / "exports"


class ExportWeights(Checkpoint):
    """Writes ``<run>/exports/best.pt`` with every better score, ``last.pt`` when training ends.

    ``best.pt`` follows `BestCheckpoint`. A subclass of Lightning's ``Checkpoint`` so that it runs
    after validation scores are in. In the list of callbacks it must stand behind `BestCheckpoint`
    and before `LastCheckpoint`: a run that is killed right behind ``last.ckpt`` must find there
    that ``best.pt`` is written.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exported_score: float | None = None
        self._has_ended = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exports where this epoch is the best so far."""
        best = [c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)]
        score = best[0].best_model_score if best else None
        if score is not None and float(score) != self._exported_score:
            self._exported_score = float(score)
            self._export(trainer, pl_module, "best")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exports the state after the last epoch."""
        self._export(trainer, pl_module, "last")
        self._has_ended = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exports the checkpoint of a run that was killed between its last save and its end.

        Nothing is left to train then, and Lightning calls no hook of training.
        """
        resumed_from = trainer.ckpt_path
        if trainer.is_global_zero and resumed_from and not self._has_ended:
            export(Path(resumed_from), export_folder(trainer.default_root_dir) / "last.pt")

    def _export(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        target = export_folder(trainer.default_root_dir) / f"{name}.pt"
        state = model_of(pl_module).core.state_dict()
        info = export_info(trainer, pl_module)
        write_in_run(trainer, lambda: write_export(state, target, info))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stores the sidecar's content, so that any checkpoint can be exported later."""
        checkpoint[CHECKPOINT_KEY] = export_info(trainer, pl_module).to_dict()

    def state_dict(self) -> dict[str, Any]:
        """Remembers which score ``best.pt`` has, for an exact resume."""
        return {"exported_score": self._exported_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` saved."""
        self._exported_score = state_dict["exported_score"]


def model_of(pl_module: LightningModule) -> Sam2:
    """Returns the module's SAM2."""
    model = pl_module.model
    assert isinstance(model, Sam2)
    return model


def export_info(trainer: Trainer, pl_module: LightningModule) -> ExportInfo:
    """Collects what the sidecar says from the module, the data and the logged metrics."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    model = model_of(pl_module)
    metrics = {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("val/")
    }
    return ExportInfo(
        variant=model.variant,
        image_size=model.image_size,
        intensity=tuple(data.intensity_rules),
        label_names=data.label_names,
        modalities=tuple(data.modalities),
        step=trainer.global_step,
        epoch=trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
        metrics=metrics,
    )
