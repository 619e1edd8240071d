"""Random numbers go on where the checkpoint was written, on every rank."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from medsam2_ft.ranks import from_all

CHECKPOINT_KEY = "random_states"


class RandomState(Callback):
    """Keeps the state of Python's, numpy's and torch's global generators in every checkpoint.

    Samples do not need it, for they depend on seed, epoch and slice alone; a model with dropout
    does. A run that is resumed on another number of ranks goes on with their fresh seeds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._restored: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Collects the states of all ranks, as plain data."""
        checkpoint[CHECKPOINT_KEY] = from_all(_collect(pl_module.device))

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Takes this rank's state; a checkpoint of another number of ranks has none for it."""
        states = checkpoint.get(CHECKPOINT_KEY, [])
        same = trainer.state.fn == "fit" and len(states) == trainer.world_size
        self._restored = states[trainer.global_rank] if same else None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores it where a resumed run begins with a validation."""
        if not trainer.sanity_checking:
            self._restore(pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restores it as late as possible, when everything else has drawn what it wanted."""
        self._restore(pl_module)

    def _restore(self, pl_module: LightningModule) -> None:
        if self._restored is not None:
            _restore(self._restored, pl_module.device)
            self._restored = None


def _collect(device: torch.device) -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - others use it
    # as int64: a uint32 tensor cannot be sent to other ranks (torch 2.15 fails to unpickle it)
    words = torch.from_numpy(keys.astype(np.int64))
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, words, int(position), has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore(states: dict[str, Any], device: torch.device) -> None:
    random.setstate(states["python"])
    kind, keys, position, has_gauss, gauss = states["numpy"]
    words = keys.numpy().astype(np.uint32)
    np.random.set_state((kind, words, position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
