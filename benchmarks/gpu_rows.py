"""The training steps that benchmarks/gpu.py tries, one row each."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from loss_curves import PlainTuner
from paper_recipe import PaperModel, PaperTraining
from report import seconds_now
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from training_ways import Work, our_training

from medsam2_ft.data.batch import SliceBatch
from medsam2_ft.features import Encoding
from medsam2_ft.module import FineTuner
from medsam2_ft.sam2_adapter import Sam2


@dataclass(frozen=True)
class Row:
    """One way to train.

    Attributes:
        name: What it is called in the table.
        precision: Lightning's; ``paper`` is the paper's recipe in float32.
        objects: Prompts of a slice.
        options: Of the module.
        sdpa: The one kernel that attention may use.
        channels_first: Feeds the encoder as Meta does.
        meta_encoder: Meta's encoder as it is released; each prompt has an image of its own.
        tf32: Lets float32 products run in TF32.
        loaded: Batches come from the data module's workers instead of lying on the device.
    """

    name: str
    precision: str = "bf16-mixed"
    objects: int = 1
    options: tuple[tuple[str, Any], ...] = ()
    sdpa: SDPBackend | None = None
    channels_first: bool = False
    meta_encoder: bool = False
    tf32: bool = False
    loaded: bool = False


PAPER: Final = Row("paper, float32", precision="paper")
OURS: Final = Row("ours, bf16")
CHECKPOINTING: Final = (("activation_checkpointing", True),)
COMPILED: Final = (("compile_encoder", True),)
ROWS: Final = (
    PAPER,
    OURS,
    replace(OURS, name="ours, bf16, checkpointing", options=CHECKPOINTING),
    replace(OURS, name="ours, bf16, 8 workers", loaded=True),
    replace(OURS, name="ours, float32", precision="32-true"),
    replace(OURS, name="ours, float32 as TF32", precision="32-true", tf32=True),
    replace(OURS, name="ours, bf16, channels first", channels_first=True),
    replace(OURS, name="ours, bf16, Meta's encoder", meta_encoder=True),
    replace(OURS, name="ours, bf16, 12 objects", objects=12),
    replace(OURS, name="ours, bf16, flash attention", sdpa=SDPBackend.FLASH_ATTENTION),
    replace(OURS, name="ours, bf16, efficient attention", sdpa=SDPBackend.EFFICIENT_ATTENTION),
    replace(OURS, name="ours, bf16, cuDNN attention", sdpa=SDPBackend.CUDNN_ATTENTION),
    replace(OURS, name="ours, bf16, plain attention", sdpa=SDPBackend.MATH),
    replace(OURS, name="ours, bf16, compiled encoder", options=COMPILED),
    replace(OURS, name="ours, bf16, compiled, checkpointing", options=(*COMPILED, *CHECKPOINTING)),
)


class Repeated(Dataset[SliceBatch]):
    """The same batch again and again, already on the device."""

    def __init__(self, batch: SliceBatch, length: int) -> None:
        self.batch = batch
        self.length = length

    def __len__(self) -> int:
        """How often."""
        return self.length

    def __getitem__(self, i: int) -> SliceBatch:
        """The batch."""
        return self.batch


class StepClock(Callback):
    """Times all steps after the first ones together, so that the device is never waited for.

    Args:
        device: Where the steps run.
        warmup: Steps that do not count.

    Attributes:
        seconds: Of one step.
    """

    def __init__(self, device: torch.device, warmup: int) -> None:
        self.device = device
        self.warmup = warmup
        self.seconds = math.nan
        self._start_s = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *rest: Any, **named: Any
    ) -> None:
        """Starts the clock after the last step of the warm-up."""
        if trainer.global_step == self.warmup:
            seconds_now(self.device)
            self._start_s = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops it."""
        seconds_now(self.device)
        steps = trainer.global_step - self.warmup
        self.seconds = (time.perf_counter() - self._start_s) / steps


def random_batch(work: Work, device: torch.device) -> SliceBatch:
    """Noise, with a square mask for each prompt."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (work.batch, 1, work.size, work.size), generator=generator)
    index = torch.arange(work.batch).repeat_interleave(work.objects)
    low = torch.randint(0, work.size // 2, (len(index), 2), generator=generator)
    boxes = torch.cat([low, low + work.size // 4], dim=1).float()
    masks = torch.zeros(len(index), work.size // 4, work.size // 4, dtype=torch.bool)
    for mask, (x, y) in zip(masks, (low // 4).tolist(), strict=True):
        mask[y : y + work.size // 16, x : x + work.size // 16] = True
    modality = torch.zeros(work.batch, dtype=torch.int64)
    return SliceBatch(images.to(torch.uint8), masks, boxes, index, modality).to(device)


def measure(
    row: Row, work: Work, device: torch.device, steps: int, warmup: int, folder: Path
) -> dict[str, Any]:
    """Seconds of a step, images per second and peak memory of one way to train.

    Args:
        row: The way.
        work: Sizes; the row says how many objects.
        device: Where.
        steps: How many count.
        warmup: How many come before them.
        folder: Cases for rows with a loader.
    """
    work = replace(work, objects=row.objects)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    torch.set_float32_matmul_precision("high" if row.tf32 else "highest")
    try:
        with _kernels(row):
            seconds = (_paper if row.precision == "paper" else _ours)(
                row, work, device, steps, warmup, folder
            )
    finally:
        torch.set_float32_matmul_precision("highest")
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else math.nan
    return {
        "name": row.name,
        "objects_per_slice": row.objects,
        "seconds": seconds,
        "images_per_s": work.batch / seconds,
        "peak_gb": peak,
    }


def _kernels(row: Row) -> AbstractContextManager[Any]:
    return nullcontext() if row.sdpa is None else sdpa_kernel(row.sdpa)


def _paper(
    row: Row, work: Work, device: torch.device, steps: int, warmup: int, folder: Path
) -> float:
    batch = random_batch(work, device)
    images = batch.images.float().div(255).expand(-1, 3, -1, -1).contiguous()
    ready = images, batch.masks[:, None].float(), batch.boxes
    training = PaperTraining(PaperModel(work.variant, work.size).to(device), _same(ready), device)
    for number in range(warmup + steps):
        if number == warmup:
            seconds_now(device)
            start_s = time.perf_counter()
        training.step()
    seconds_now(device)
    return (time.perf_counter() - start_s) / steps


def _same(batch: tuple[Tensor, Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    while True:
        yield batch


def _ours(
    row: Row, work: Work, device: torch.device, steps: int, warmup: int, folder: Path
) -> float:
    options = {"variant": work.variant, "weights": "random", "image_size": work.size}
    kind: Callable[..., FineTuner] = PlainTuner if row.meta_encoder else FineTuner
    module = kind(**options, **dict(row.options))
    if row.channels_first:
        module.model.encode = partial(  # type: ignore[method-assign]
            _encode_channels_first, module.model
        )
    clock = StepClock(device, warmup)
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=row.precision,  # type: ignore[arg-type]
        max_steps=warmup + steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    if row.loaded:
        data = our_training(work, folder, num_workers=8)[1]
        trainer.fit(module, datamodule=data)
    else:
        batches = Repeated(random_batch(work, device), warmup + steps)
        trainer.fit(module, DataLoader(batches, batch_size=None))
    return clock.seconds


def _encode_channels_first(model: Sam2, images: Tensor) -> Encoding:
    return Encoding(tuple(model.core.forward_image(images.contiguous())["backbone_fpn"]))
