"""Writes what ``train.py predict`` segments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from medsam2_ft.io.atomic import make_folder
from medsam2_ft.io.npz import write_case
from medsam2_ft.types import Case


def predictions_folder(run: str | Path) -> Path:
    """Returns where a run keeps its predictions."""
    return Path(run) / "predictions"


class WritePredictions(BasePredictionWriter):
    """Writes every predicted case to ``<run>/predictions/<name>.npz`` as soon as it is there."""

    def __init__(self) -> None:
        super().__init__(write_interval="batch")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Case,
        batch_indices: Sequence[int] | None,
        batch: Case,
        batch_idx: int,
        dataloader_idx: int,
    ) -> Any:
        """Writes one case; a name with a data set in it makes a folder for that."""
        path = predictions_folder(trainer.default_root_dir) / f"{prediction.name}.npz"
        make_folder(path.parent)
        write_case(path, prediction)
