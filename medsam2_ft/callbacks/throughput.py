"""Logs images/s, objects/s and peak memory."""

import resource
import sys
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from medsam2_ft.data.batch import SliceBatch

GIB = 1024**3


class Throughput(Callback):
    """Logs ``speed/images_per_s``, ``speed/objects_per_s`` (all ranks) and ``memory/peak_gib``.

    Rates are taken over the steps since the last logged one, data loading included. Memory is the
    peak of the CUDA allocator, or of the process's resident memory on the CPU. The first step of a
    start is left out: it pays for compilation and for caches.
    """

    def __init__(self) -> None:
        super().__init__()
        self._since_s: float | None = None
        self._images = 0
        self._objects = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the validation between two epochs out of the rates."""
        self._since_s = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: SliceBatch,
        batch_idx: int,
    ) -> None:
        """Counts, and logs every ``log_every_n_steps``."""
        if self._since_s is None:
            self._start()
            return
        self._images += len(batch.images)
        self._objects += len(batch.boxes)
        if (batch_idx + 1) % trainer.log_every_n_steps == 0 or trainer.is_last_batch:
            seconds = time.perf_counter() - self._since_s
            rate = trainer.world_size / seconds
            pl_module.log("speed/images_per_s", self._images * rate)
            pl_module.log("speed/objects_per_s", self._objects * rate)
            pl_module.log("memory/peak_gib", peak_memory_bytes(pl_module.device) / GIB)
            self._start()

    def _start(self) -> None:
        self._since_s = time.perf_counter()
        self._images = self._objects = 0


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the peak memory in bytes: CUDA's allocator, else the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # ru_maxrss is in KiB on Linux and in bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
