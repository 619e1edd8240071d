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
    """Logs ``speed/images_per_s``, ``speed/objects_per_s`` and ``memory/peak_gib``.

    Rates are sums over all ranks, taken over the batches since the last logged step: from the end
    of one batch to the end of the next, so loading of data, checkpoints and pictures count.
    Validation does not, nor does the start of an epoch, when workers start. The first batch of a
    start is left out: it pays for compilation and for caches. Memory is the largest peak of any
    rank's CUDA allocator, or of the process's resident memory on the CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self._warm = False
        self._since_s: float | None = None
        self._steps_seen = 0
        self._reset()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets an earlier fit; steps of a resumed run are not new ones."""
        self._warm = False
        self._since_s = None
        self._steps_seen = trainer.global_step
        self._reset()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves what lies between two epochs out of the rates."""
        self._since_s = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves a validation in the middle of an epoch out of the rates."""
        self._since_s = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: SliceBatch, batch_idx: int
    ) -> None:
        """Starts the clock where it does not run."""
        if self._since_s is None:
            self._since_s = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: SliceBatch,
        batch_idx: int,
    ) -> None:
        """Counts, and logs at the steps that loggers see."""
        now_s = time.perf_counter()
        if self._warm and self._since_s is not None:
            self._seconds += now_s - self._since_s
            self._images += len(batch.images)
            self._objects += len(batch.boxes)
        self._since_s = now_s
        self._warm = True
        if self._is_logged_step(trainer):
            self._log(pl_module)

    def _is_logged_step(self, trainer: Trainer) -> bool:
        """Whether an optimiser step has just ended that is due: every rank says the same."""
        stepped = trainer.global_step > self._steps_seen
        self._steps_seen = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set dynamically
        return stepped and every > 0 and trainer.global_step % every == 0

    def _log(self, pl_module: LightningModule) -> None:
        if self._seconds > 0:
            rates = {"images": self._images, "objects": self._objects}
            for name, count in rates.items():
                rate = torch.tensor(count / self._seconds, device=pl_module.device)
                pl_module.log(f"speed/{name}_per_s", rate, sync_dist=True, reduce_fx="sum")
        peak = torch.tensor(peak_memory_bytes(pl_module.device) / GIB, device=pl_module.device)
        pl_module.log("memory/peak_gib", peak, sync_dist=True, reduce_fx="max")
        self._reset()

    def _reset(self) -> None:
        self._seconds = 0.0
        self._images = self._objects = 0


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the peak memory in bytes: CUDA's allocator, else the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # ru_maxrss is in KiB on Linux and in bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
