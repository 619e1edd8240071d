"""The smallest fine-tuning run that the callbacks can be attached to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from medsam2_ft.data.batch import SliceBatch
from medsam2_ft.data.cases import NamedCase
from medsam2_ft.resize import normalize
from medsam2_ft.sam2_adapter import build_model

SIZE = 64


def slice_batch(
    seed: int, slices: int = 2, channels: int = 1, negative: bool = False
) -> SliceBatch:
    """Slices with one bright square each; with ``negative`` the first prompt shows nothing."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (slices, channels, SIZE, SIZE)).astype(np.uint8)
    masks = np.zeros((slices, SIZE // 4, SIZE // 4), bool)
    boxes = np.zeros((slices, 4), np.float32)
    for i in range(slices):
        x, y = rng.integers(2, 8, size=2)
        masks[i, y : y + 6, x : x + 5] = True
        images[i, :, 4 * y : 4 * y + 24, 4 * x : 4 * x + 20] += 150
        boxes[i] = (4 * x, 4 * y, 4 * x + 19, 4 * y + 23)
    if negative:
        masks[0] = False
    return SliceBatch(
        images=torch.from_numpy(images),
        masks=torch.from_numpy(masks),
        boxes=torch.from_numpy(boxes),
        image_index=torch.arange(slices),
        modality=torch.zeros(slices, dtype=torch.int64),
    )


class TinyData(LightningDataModule):
    """Given batches for training and validation, given volumes for the callbacks."""

    def __init__(
        self,
        cases: Sequence[Path] = (),
        train: Sequence[SliceBatch] | None = None,
        val: Sequence[SliceBatch] | None = None,
    ) -> None:
        super().__init__()
        self.cases = list(cases)
        self.regions = False
        self.train = [slice_batch(0)] if train is None else list(train)
        self.val = [slice_batch(1)] if val is None else list(val)

    def volumes(self, split: str) -> list[NamedCase]:
        cases = self.cases if split in ("val", "test") else []
        return [NamedCase(path.stem, path) for path in cases]

    def train_dataloader(self) -> Any:
        return _loader(self.train)

    def val_dataloader(self) -> Any:
        return _loader(self.val)

    def test_dataloader(self) -> Any:
        return _loader(self.val)


class TinyModule(LightningModule):
    """A real SAM2 in miniature; trains its mask decoder."""

    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = build_model("tiny_test", image_size=SIZE, weights="random")
        self.model.requires_grad_(False)
        self.model.core.sam_mask_decoder.output_hypernetworks_mlps[0].requires_grad_(True)
        with torch.no_grad():  # a random model may call every object absent
            self.model.core.sam_mask_decoder.pred_obj_score_head.layers[-1].bias += 10.0
        self.lr = lr

    def training_step(self, batch: SliceBatch, batch_idx: int) -> torch.Tensor:
        encoding = self.model.encode(normalize(batch.images))
        decoded = self.model.decode_all(encoding, batch.image_index, batch.boxes)
        return torch.nn.functional.binary_cross_entropy_with_logits(
            decoded.mask_logits[:, 0], batch.masks.float()
        )

    def validation_step(self, batch: SliceBatch, batch_idx: int) -> None:
        pass

    def test_step(self, batch: SliceBatch, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD((p for p in self.parameters() if p.requires_grad), lr=self.lr)


def trainer_for(run: Path, callbacks: Sequence[Callback], **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 1,
    }
    return Trainer(default_root_dir=run, callbacks=list(callbacks), **{**defaults, **options})


def _loader(batches: Sequence[SliceBatch]) -> Any:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # a list is a data set
