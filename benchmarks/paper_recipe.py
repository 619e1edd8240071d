"""The fine-tuning recipe of arXiv 2408.03322, in plain PyTorch: what training is measured against.

float32; one random object of a slice per step; a slice is an npy file of its image and one of its
labels; the worker makes three channels and resizes them in float; AdamW with a constant learning
rate; Dice + binary cross-entropy of the single mask at a quarter of the input size; the prompt
encoder is frozen. The model is Meta's, as its package builds and runs it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses.dice import DiceLoss
from sam2.build_sam import build_sam2
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from medsam2_ft.io.npz import read_case
from medsam2_ft.resize import PIXEL_MEAN, PIXEL_STD
from medsam2_ft.sam2_adapter import meta_config

JITTER_PX = 20  # at 1024


def expand(cases: list[Path], folder: Path) -> list[Path]:
    """Writes an image and a label npy for each labelled slice; returns the image files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for path in cases:
        case = read_case(path)
        for z in np.flatnonzero(case.label_maps[0].any(axis=(1, 2))):
            file = folder / f"{path.stem}-{z:04}.npy"
            np.save(file, case.image[z])
            np.save(file.with_suffix(".labels.npy"), case.label_maps[0][z])
            files.append(file)
    return files


class NpySlices(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """One random object of a slice: normalised image, mask at a quarter of the size, box."""

    def __init__(self, files: list[Path], size: int, seed: int = 0) -> None:
        self.files = files
        self.size = size
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Reads, resizes in float, normalises, draws."""
        image = np.load(self.files[i])
        labels = np.load(self.files[i].with_suffix(".labels.npy"))
        colour = np.repeat(image[:, :, None], 3, axis=-1) if image.ndim == 2 else image
        scaled = torch.from_numpy(colour.transpose(2, 0, 1).copy()).float().div(255)[None]
        scaled = interpolate(scaled, (self.size, self.size), mode="bilinear", antialias=True)[0]
        mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
        mask = torch.from_numpy(labels == self.rng.choice(np.unique(labels[labels > 0])))
        mask = interpolate(mask[None, None].float(), (self.size // 4,) * 2, mode="nearest")[0]
        rows, columns = (4 * np.flatnonzero(mask[0].any(dim=axis)) for axis in (1, 0))
        if not len(rows):  # too small to be seen at this size
            rows = columns = np.zeros(1, int)
        grow = self.rng.integers(0, JITTER_PX * self.size // 1024 + 1, 4)
        low = np.maximum([columns[0] - grow[0], rows[0] - grow[1]], 0)
        high = np.minimum([columns[-1] + grow[2], rows[-1] + grow[3]], self.size - 1)
        return (scaled - mean) / std, mask, torch.from_numpy(np.concatenate([low, high])).float()


class PaperModel(nn.Module):
    """Meta's model with its prompt encoder frozen: images and boxes to mask logits."""

    def __init__(self, variant: str, size: int) -> None:
        super().__init__()
        config, overrides = meta_config(variant, size)
        self.core: Any = build_sam2(config, None, device="cpu", hydra_overrides_extra=overrides)
        self.core.train()
        self.core.requires_grad_(False)
        self.core.image_encoder.requires_grad_(True)
        self.core.sam_mask_decoder.requires_grad_(True)

    def forward(self, images: Tensor, boxes_xyxy: Tensor) -> Tensor:
        """Returns one mask per image at a quarter of its size."""
        core = self.core
        features = core.forward_image(images)["backbone_fpn"]
        coarse = features[-1] + core.no_mem_embed.reshape(1, -1, 1, 1)
        with torch.no_grad():
            sparse, dense = core.sam_prompt_encoder(points=None, boxes=boxes_xyxy, masks=None)
        masks: Tensor = core.sam_mask_decoder(
            image_embeddings=coarse,
            image_pe=core.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            repeat_image=False,
            high_res_features=features[:-1],
        )[0]
        return masks


class PaperTraining:
    """The training loop, one step at a time.

    Args:
        model: On its device.
        batches: Of images, masks and boxes, without end.
        device: Where the model is.
    """

    def __init__(
        self,
        model: PaperModel,
        batches: Iterator[tuple[Tensor, Tensor, Tensor]],
        device: torch.device,
    ) -> None:
        self.model = model
        self.batches = batches
        self.device = device
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=6e-5, weight_decay=0.01)
        self.dice = DiceLoss(sigmoid=True, squared_pred=True, reduction="mean")
        self.cross_entropy = nn.BCEWithLogitsLoss(reduction="mean")

    def step(self) -> Tensor:
        """Loads a batch and trains on it; returns the loss."""
        images, masks, boxes = (part.to(self.device) for part in next(self.batches))
        self.optimizer.zero_grad()
        logits = self.model(images, boxes)
        loss: Tensor = self.dice(logits, masks) + self.cross_entropy(logits, masks)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    """Batches, epoch after epoch."""
    while True:
        yield from loader
