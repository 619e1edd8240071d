"""Atomic checkpoints, where they are taken, and what `last` means."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from medsam2_ft.checkpointing import (
    AtomicCheckpointIO,
    LastCheckpoint,
    checkpoint_folder,
    newest_checkpoint,
)
from medsam2_ft.errors import UserError


class Recorder(LastCheckpoint):
    """Notes the (epoch, step) of every save, whether it was in the middle of an epoch."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.saves: list[tuple[int, int]] = []

    def save(self, trainer: Trainer) -> None:
        before = self._saved
        super().save(trainer)
        if self._saved != before:
            self.saves.append((trainer.current_epoch, trainer.global_step))


def run(tmp_path: Path, recorder: LastCheckpoint, **options: object) -> Trainer:
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        callbacks=[recorder],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_train_batches=6,
        limit_val_batches=1,
        **options,
    )
    trainer.fit(BoringModel())
    return trainer


def test_saves_within_and_after_epochs_but_not_before_validation(tmp_path: Path) -> None:
    recorder = Recorder(every_n_steps=2)
    run(tmp_path, recorder, max_epochs=2)
    # steps 6 and 12 are the last of their epochs: saved once, after validation
    assert recorder.saves == [(0, 2), (0, 4), (0, 6), (1, 8), (1, 10), (1, 12)]


def test_saves_only_between_optimiser_steps(tmp_path: Path) -> None:
    recorder = Recorder(every_n_steps=1)
    run(tmp_path, recorder, max_epochs=1, accumulate_grad_batches=2)
    assert recorder.saves == [(0, 1), (0, 2), (0, 3)]


def test_zero_saves_at_the_end_of_epochs_only(tmp_path: Path) -> None:
    recorder = Recorder(every_n_steps=0)
    run(tmp_path, recorder, max_epochs=2)
    assert recorder.saves == [(0, 6), (1, 12)]


def test_negative_interval_is_refused() -> None:
    with pytest.raises(UserError, match=r"last.every_n_steps=-1"):
        LastCheckpoint(every_n_steps=-1)


def test_newest_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    run(tmp_path, LastCheckpoint(), max_epochs=1)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.parent == checkpoint_folder(tmp_path)
    assert torch.load(found, weights_only=True)["global_step"] == 6


def test_failed_write_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    target = tmp_path / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, target)

    class Unwritable:
        def __reduce__(self) -> tuple:
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        io.save_checkpoint({"step": 2, "x": Unwritable()}, target)
    assert io.load_checkpoint(target, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    witness = tmp_path / "executed"

    class Touch:
        def __reduce__(self) -> tuple:
            return Path.touch, (witness,)

    torch.save({"state_dict": Touch()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"evil.ckpt"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt", weights_only=False)
    assert not witness.exists()
