"""A resumed run sees exactly the samples that the uninterrupted one would have seen."""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from medsam2_ft.data.batch import SliceBatch, collate, padding_sample
from medsam2_ft.data.datamodule import SliceDataModule

EPOCHS = 3


def digests(batch: SliceBatch) -> list[str]:
    """One digest per sample: pixels, boxes and masks, so augmentation and jitter count too."""
    found = []
    for k, image in enumerate(batch.images):
        mine = batch.image_index == k
        parts = (image, batch.boxes[mine], batch.masks[mine])
        found.append(hashlib.sha256(b"".join(p.numpy().tobytes() for p in parts)).hexdigest()[:12])
    return found


class Recorder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[str]] = []
        self.epochs: list[int] = []
        self.validated: list[int] = []

    def training_step(self, batch: SliceBatch, batch_idx: int) -> torch.Tensor:
        self.seen.append(digests(batch))
        self.epochs.append(self.current_epoch)
        return self.weight.sum()

    def validation_step(self, batch: SliceBatch, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.validated.append(self.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    data_dir: Path | list[str],
    root: Path,
    *,
    ckpt: Path | None = None,
    callbacks: list[Callback] | None = None,
    data: dict[str, Any] | None = None,
    **trainer: Any,
) -> Recorder:
    module = Recorder()
    options = {"batch_size": 2, "num_workers": 0, "image_size": 64, "negative_share": 0.3}
    folders = data_dir if isinstance(data_dir, list) else str(data_dir)
    loader = SliceDataModule(folders, **(options | (data or {})))
    Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=EPOCHS,
        default_root_dir=root,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks or [],
        enable_checkpointing=False,
        **trainer,
    ).fit(module, datamodule=loader, ckpt_path=None if ckpt is None else str(ckpt))
    return module


class SaveAlways(Callback):
    """Checkpoints after optimiser steps, validations and epochs, named by the batches done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.step = 0

    def _save(self, trainer: Trainer, module: Recorder, moment: str) -> None:
        trainer.save_checkpoint(self.folder / f"{moment}-{len(module.seen)}.ckpt")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Recorder, *args: Any) -> None:
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self._save(trainer, pl_module, "step")

    def on_validation_end(self, trainer: Trainer, pl_module: Recorder) -> None:
        if not trainer.sanity_checking:
            self._save(trainer, pl_module, "val")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Recorder) -> None:
        self._save(trainer, pl_module, "epoch")


def batches_done(checkpoint: Path) -> int:
    return int(checkpoint.stem.split("-")[1])


@pytest.mark.parametrize(
    ("workers", "accumulate", "trainer"),
    [
        (0, 1, {}),
        (0, 2, {}),
        (0, 1, {"val_check_interval": 2}),
        (0, 1, {"limit_train_batches": 3}),
        pytest.param(2, 2, {}, marks=pytest.mark.slow),
    ],
)
def test_resumed_run_sees_the_same_samples(
    data_dir: Path, tmp_path: Path, workers: int, accumulate: int, trainer: dict[str, Any]
) -> None:
    options = {"data": {"num_workers": workers}, "accumulate_grad_batches": accumulate, **trainer}
    folder = tmp_path / "checkpoints"
    whole = fit(data_dir, tmp_path, callbacks=[SaveAlways(folder)], **options)
    per_epoch = len(whole.seen) // EPOCHS
    assert per_epoch == (3 if "limit_train_batches" in trainer else 6)
    assert len({digest for batch in whole.seen for digest in batch}) > 2 * per_epoch

    saved = sorted(folder.glob("*.ckpt"))
    assert {path.stem.split("-")[0] for path in saved} == {"step", "val", "epoch"}
    if workers:
        saved = saved[::3]
    for checkpoint in saved:
        done = batches_done(checkpoint)
        resumed = fit(data_dir, tmp_path, ckpt=checkpoint, **options)
        assert resumed.seen == whole.seen[done:], checkpoint.name
        assert resumed.epochs == whole.epochs[done:], checkpoint.name


def test_resumed_run_on_weighted_sets_sees_the_same_samples(
    data_dir: Path, tmp_path: Path, make_case: Any
) -> None:
    for k in range(2):
        make_case(tmp_path / "rare" / "train", f"rare{k}", value=40 + k, colour=True)
    sets = [str(data_dir), str(tmp_path / "rare")]
    data = {"dataset_weights": {"rare": 2.5, "data": 0.75}}
    folder = tmp_path / "checkpoints"
    whole = fit(sets, tmp_path, data=data, callbacks=[SaveAlways(folder)])
    for checkpoint in sorted(folder.glob("*.ckpt"))[::2]:
        resumed = fit(sets, tmp_path, data=data, ckpt=checkpoint)
        assert resumed.seen == whole.seen[batches_done(checkpoint) :], checkpoint.name
    with pytest.warns(UserWarning, match="weights.* begins anew"):
        fit(sets, tmp_path, ckpt=folder / "step-5.ckpt")


def test_every_epoch_has_every_slice_once_in_another_order(data_dir: Path, tmp_path: Path) -> None:
    data = {"negative_share": 0.0, "augment": False, "box_jitter_px": 0.0}
    seen = fit(data_dir, tmp_path, data=data).seen
    epochs = [list(itertools.chain(*seen[k : k + 5])) for k in range(0, len(seen), 5)]
    assert len(epochs) == EPOCHS
    for epoch in epochs:
        assert len(set(epoch)) == 10  # nine slices and the padding
        assert set(epoch) == set(epochs[0])
    assert epochs[0] != epochs[1]


@pytest.fixture
def plain_checkpoints(data_dir: Path, tmp_path: Path) -> Iterator[tuple[Recorder, list[Path]]]:
    data = {"negative_share": 0.0, "augment": False, "box_jitter_px": 0.0}
    folder = tmp_path / "plain"
    whole = fit(data_dir, tmp_path, data=data, callbacks=[SaveAlways(folder)])
    return whole, sorted(folder.glob("*.ckpt"))


@pytest.mark.parametrize("batch_size", [1, 3, 4, 16])
def test_another_batch_size_loses_and_doubles_no_sample(
    data_dir: Path,
    tmp_path: Path,
    plain_checkpoints: tuple[Recorder, list[Path]],
    batch_size: int,
) -> None:
    whole, saved = plain_checkpoints
    data = {"negative_share": 0.0, "augment": False, "box_jitter_px": 0.0}
    order = list(itertools.chain(*whole.seen))
    (blank,) = digests(collate([padding_sample(64)]))
    assert order.count(blank) == EPOCHS
    order = [digest for digest in order if digest != blank]
    for checkpoint in saved:
        done = batches_done(checkpoint)
        resumed = fit(data_dir, tmp_path, ckpt=checkpoint, data=data | {"batch_size": batch_size})
        seen = [d for batch in resumed.seen for d in batch if d != blank]
        samples = done // 5 * 9 + done % 5 * 2
        assert seen == order[samples:], checkpoint.name
        if done % 5:
            epochs = EPOCHS - done // 5
            assert len(resumed.validated) == epochs * -(-3 // batch_size), checkpoint.name


def test_other_data_begin_the_epoch_anew(data_dir: Path, tmp_path: Path, make_case: Any) -> None:
    folder = tmp_path / "checkpoints"
    fit(data_dir, tmp_path, callbacks=[SaveAlways(folder)])
    make_case(data_dir / "train", "added", value=77)
    with pytest.warns(UserWarning, match="epoch 1 begins anew"):
        resumed = fit(data_dir, tmp_path, ckpt=folder / "step-8.ckpt")
    fresh = fit(data_dir, tmp_path)
    assert len(resumed.seen) == 2 * len(fresh.seen) // EPOCHS
    assert resumed.seen == fresh.seen[len(fresh.seen) // EPOCHS :]


def test_overfitting_repeats_the_same_batches(data_dir: Path, tmp_path: Path) -> None:
    seen = fit(data_dir, tmp_path, overfit_batches=2).seen
    assert len(seen) == 2 * EPOCHS
    assert seen[:2] == seen[2:4] == seen[4:]


def test_limited_epochs_are_the_beginnings_of_whole_ones(data_dir: Path, tmp_path: Path) -> None:
    whole = fit(data_dir, tmp_path).seen
    limited = fit(data_dir, tmp_path, limit_train_batches=0.5).seen
    assert limited == [*whole[0:3], *whole[6:9], *whole[12:15]]


def test_second_fit_of_one_trainer_goes_on(data_dir: Path, tmp_path: Path) -> None:
    whole = fit(data_dir, tmp_path)
    module, data = (
        Recorder(),
        SliceDataModule(
            str(data_dir), batch_size=2, num_workers=0, image_size=64, negative_share=0.3
        ),
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, datamodule=data)
    trainer.fit_loop.max_epochs = EPOCHS
    trainer.fit(module, datamodule=data)
    assert module.seen == whole.seen
