"""Random states and the scaler of fp16 are part of every checkpoint."""

import random
import shutil
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from medsam2_ft.callbacks.random_state import RandomState
from medsam2_ft.checkpointing import AtomicCheckpointIO, LastCheckpoint

EPOCHS = 2
BATCHES = 5


class Random(BoringModel):
    """Every batch is the same, and each step draws from all three generators."""

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        batch = torch.nn.functional.dropout(batch, 0.5)
        return self.layer(batch).square().mean() * random.random() * np.random.rand()  # noqa: NPY002

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(64, 32), generator=torch.Generator())

    def val_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(64, 32), generator=torch.Generator())


class KeepAll(LastCheckpoint):
    """Keeps a copy of every checkpoint."""

    def save(self, trainer: Trainer) -> None:
        super().save(trainer)
        folder = Path(trainer.default_root_dir) / "checkpoints"
        shutil.copy(folder / "last.ckpt", folder / f"step{trainer.global_step}.ckpt")


def fit(
    root: Path, callbacks: list[Callback], checkpoint: Path | None = None, **options: object
) -> Trainer:
    trainer = Trainer(
        default_root_dir=root,
        accelerator="cpu",
        devices=1,
        max_epochs=EPOCHS,
        limit_train_batches=BATCHES,
        limit_val_batches=1,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"plugins": [AtomicCheckpointIO()], **options},
    )
    trainer.fit(Random(), ckpt_path=None if checkpoint is None else str(checkpoint))
    return trainer


def weights(module: LightningModule | None) -> torch.Tensor:
    assert module is not None
    return module.state_dict()["layer.weight"]


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    seed_everything(1)
    whole = fit(tmp_path / "whole", [RandomState(), KeepAll(every_n_steps=1)])
    for step in (2, BATCHES, BATCHES + 3):  # within an epoch, and at its end
        seed_everything(99)
        checkpoint = tmp_path / f"whole/checkpoints/step{step}.ckpt"
        resumed = fit(tmp_path / "resumed", [RandomState(), KeepAll()], checkpoint)
        assert resumed.global_step == EPOCHS * BATCHES
        assert torch.equal(weights(resumed.lightning_module), weights(whole.lightning_module)), step


def test_the_scaler_goes_on_where_it_was(tmp_path: Path) -> None:
    def plugins() -> dict[str, list[object]]:
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
        return {"plugins": [AtomicCheckpointIO(), MixedPrecision("16-mixed", "cpu", scaler)]}

    whole = fit(tmp_path / "whole", [KeepAll(every_n_steps=1)], **plugins())
    state = whole.precision_plugin.state_dict()
    assert state["scale"] == 64.0 * 2 ** (EPOCHS * BATCHES // 3)
    checkpoint = tmp_path / "whole/checkpoints/step4.ckpt"
    resumed = fit(tmp_path / "resumed", [KeepAll()], checkpoint, **plugins())
    assert resumed.precision_plugin.state_dict() == state
