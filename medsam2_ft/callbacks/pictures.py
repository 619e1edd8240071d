"""Pictures of what the model sees in training and of what it makes of validation slices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from medsam2_ft.callbacks.propagation import autocast_dtype
from medsam2_ft.data.batch import SliceBatch
from medsam2_ft.errors import UserError
from medsam2_ft.evaluate import predict_slice
from medsam2_ft.io.disk_wait import is_disk_trouble, require_folder
from medsam2_ft.metrics import dice
from medsam2_ft.overlays import (
    RED,
    WHITE,
    BoxLayer,
    MaskLayer,
    Panel,
    color_of,
    render_grid,
    write_png,
)

PICTURES: Final = "pictures"


class TrainingPictures(Callback):
    """Writes PNG files below ``<run>/pictures`` and sends them to W&B and TensorBoard.

    ``train_batch.png`` is the first batch of a start, augmented, with its boxes and masks; boxes of
    negative prompts are red. ``val_epoch_000.png`` and so on show the same validation slices after
    each validation: truth and box on the left, prediction with the truth's outline on the right.
    Slices, boxes and masks are those of the validation batches, at the model's input size. Only the
    first process draws.

    Args:
        train_slices: At most so many slices of the training batch; 0 switches the picture off.
        val_slices: Number of validation slices, evenly spaced over the batches; 0 switches the
            pictures off.
        every_n_epochs: Pictures of validation slices after every n-th training epoch.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(self, train_slices: int = 8, val_slices: int = 4, every_n_epochs: int = 1) -> None:
        super().__init__()
        if min(train_slices, val_slices) < 0:
            raise UserError(f"pictures: {train_slices} and {val_slices} slices: give 0 or more")
        if every_n_epochs < 1:
            raise UserError(f"pictures.every_n_epochs={every_n_epochs}: give at least 1")
        self.train_slices = train_slices
        self.val_slices = val_slices
        self.every_n_epochs = every_n_epochs
        self._train_done = False
        self._val_panels: list[Panel] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: SliceBatch, batch_idx: int
    ) -> None:
        """Draws the first batch."""
        if self._train_done or self.train_slices == 0 or not _draws(trainer):
            return
        self._train_done = True
        slices = [_Slice(batch, i) for i in range(min(self.train_slices, len(batch.images)))]
        rgb = render_grid([s.training_panel(i) for i, s in enumerate(slices)], columns=4)
        _publish(trainer, "train_batch", "train_batch", rgb)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets slices of a validation that was interrupted."""
        self._val_panels = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: SliceBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Segments the slices to draw."""
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if trainer.sanity_checking or not due or not _draws(trainer):
            return
        dtype = autocast_dtype(trainer.precision)
        for i in self._picked(int(trainer.num_val_batches[dataloader_idx]), batch_idx, batch):
            chosen = _Slice(batch, i)
            masks = predict_slice(pl_module.model, chosen.image, chosen.boxes, dtype=dtype)  # type: ignore[arg-type]
            self._val_panels += chosen.validation_panels(f"slice {i} of batch {batch_idx}", masks)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws them."""
        if self._val_panels:
            rgb = render_grid(self._val_panels, columns=4)
            _publish(trainer, f"val_epoch_{trainer.current_epoch:03d}", "val_slices", rgb)
            self._val_panels = []

    def _picked(self, batches: int, batch_idx: int, batch: SliceBatch) -> list[int]:
        """Rows of this batch to draw: evenly spaced over those that show an object."""
        due = np.linspace(0, batches - 1, self.val_slices).round().astype(int)
        wanted = int(np.count_nonzero(due == batch_idx))
        shown = sorted(set(batch.image_index[batch.masks.flatten(1).any(dim=1)].tolist()))
        spaced = np.linspace(0, len(shown) - 1, min(wanted, len(shown))).round().astype(int)
        return [int(shown[i]) for i in spaced]


class _Slice:
    """One row of a batch with its prompts, as numpy arrays."""

    def __init__(self, batch: SliceBatch, row: int) -> None:
        own = batch.image_index == row
        image = batch.images[row].permute(1, 2, 0).cpu().numpy()
        self.image: UInt8[np.ndarray, "s s"] | UInt8[np.ndarray, "s s 3"]
        self.image = image[..., 0] if image.shape[-1] == 1 else image
        self.masks: Bool[np.ndarray, "n l l"] = batch.masks[own].cpu().numpy()
        self.boxes: Float32[np.ndarray, "n 4"] = batch.boxes[own].cpu().numpy()
        self.is_object: list[bool] = [bool(mask.any()) for mask in self.masks]

    def training_panel(self, row: int) -> Panel:
        negatives = self.is_object.count(False)
        caption = f"slice {row}: {_count(self.is_object.count(True), 'object')}"
        caption += f", {_count(negatives, 'negative')}" if negatives else ""
        masks = [MaskLayer(m, color_of(i), "fill") for i, m in enumerate(self.masks)]
        return Panel(self.image, caption, masks, self._boxes())

    def validation_panels(self, name: str, predictions: Bool[np.ndarray, "n s s"]) -> list[Panel]:
        truth = [MaskLayer(m, color_of(i), "fill") for i, m in enumerate(self.masks)]
        objects = [i for i, is_object in enumerate(self.is_object) if is_object]
        fills = [MaskLayer(predictions[i], color_of(i), "fill") for i in objects]
        outlines = [MaskLayer(self.masks[i], WHITE) for i in objects]
        side = self.masks.shape[-1]
        scores = [dice(_shrunk(predictions[i], side), self.masks[i]) for i in objects]
        text = " ".join(f"{score:.2f}" for score in scores)
        return [
            Panel(self.image, f"{name}: truth and box", truth, self._boxes()),
            Panel(self.image, f"prediction, DSC {text}", [*fills, *outlines]),
        ]

    def _boxes(self) -> Sequence[BoxLayer]:
        return [
            BoxLayer(box, color_of(i) if self.is_object[i] else RED)
            for i, box in enumerate(self.boxes)
        ]


def _shrunk(mask: Bool[np.ndarray, "s s"], side: int) -> Bool[np.ndarray, "l l"]:
    """A mask of the input at the resolution of the targets, by majority."""
    step = len(mask) // side
    return np.asarray(mask.reshape(side, step, side, step).mean(axis=(1, 3)) >= 0.5)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _draws(trainer: Trainer) -> bool:
    return bool(trainer.is_global_zero and not trainer.fast_dev_run)  # type: ignore[attr-defined]


def _publish(trainer: Trainer, file: str, key: str, rgb: UInt8[np.ndarray, "h w 3"]) -> None:
    try:
        require_folder(trainer.default_root_dir)
        write_png(Path(trainer.default_root_dir) / PICTURES / f"{file}.png", rgb)
    except (OSError, UserError) as error:
        if not is_disk_trouble(error):
            raise
        rank_zero_warn(f"{error}; training goes on without this picture")
    for logger in trainer.loggers:
        name = f"{PICTURES}/{key}"
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [rgb], step=trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, rgb, trainer.global_step, dataformats="HWC")
