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
        checkpoint[CHECKPOINT_KEY] = [
            {
                name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v
                for name, v in own.items()
            }
            for own in from_all(_collect(pl_module.device))
        ]

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
    """Returns the states, arrays among them: tensors cannot be gathered as objects."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - other libraries use it
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, *rest),
        "numpy_keys": np.array(keys),
        "torch": torch.get_rng_state().numpy(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device).numpy()
    return states


def _restore(states: dict[str, Any], device: torch.device) -> None:
    random.setstate(states["python"])
    kind, *rest = states["numpy"]
    np.random.set_state((kind, states["numpy_keys"].numpy(), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
