"""Loaders of slices and the processes behind them."""

from typing import Any

import blosc2
import cv2
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from medsam2_ft.data.batch import collate
from medsam2_ft.data.dataset import SliceDataset
from medsam2_ft.data.sampler import FixedBatches, TrainBatches
from medsam2_ft.errors import UserError
from medsam2_ft.stop_signals import ignore_stop_signals


def slice_loader(
    dataset: SliceDataset,
    batches: TrainBatches | FixedBatches,
    *,
    num_workers: int,
    pin_memory: bool,
) -> DataLoader[Any]:
    """Returns a loader of ``SliceBatch``.

    Args:
        dataset: Makes the samples.
        batches: Says which.
        num_workers: Processes that load; 0 loads in this one.
        pin_memory: Whether batches go to page-locked memory, from where a GPU reads by itself.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # or every epoch would draw from the global one
        worker_init_fn=_set_up_worker,
        pin_memory=pin_memory,
    )


def check_trainer(trainer: Trainer | None) -> None:
    """Refuses a trainer that would divide the slices among the ranks a second time.

    Raises:
        UserError: It would.
    """
    if trainer is None or trainer.world_size == 1:
        return
    if trainer._accelerator_connector.use_distributed_sampler:
        raise UserError(
            "trainer.use_distributed_sampler is true, but these loaders divide the slices "
            "among the processes themselves; set it to false."
        )


def _set_up_worker(worker_id: int) -> None:
    """Workers are the parallelism; threads within each would fight for the same cores.

    Schedulers signal the whole group. The training finishes its batch first and needs its workers
    for that; they end when it tells them, or when it is gone.
    """
    ignore_stop_signals()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
