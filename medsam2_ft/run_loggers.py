"""The loggers of a run: ``metrics.csv`` always, Weights & Biases and TensorBoard on request."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import Logger

from medsam2_ft.errors import UserError
from medsam2_ft.run_log import MetricsCsv


@dataclass(frozen=True)
class WandbOptions:
    """Weights & Biases.

    Attributes:
        mode: ``off``, ``online``, or ``offline`` (writes below the run folder; `wandb sync` later).
        project: Project to log to.
        entity: User or team; the account's default if not given.
    """

    mode: Literal["off", "online", "offline"] = "off"
    project: str = "medsam2-ft"
    entity: str | None = None


def tensorboard_logger(run: str) -> Logger:
    """Returns a logger to ``<run>/tensorboard``; a resumed run adds a file of events.

    Raises:
        UserError: The package is not installed.
    """
    from lightning.pytorch.loggers import TensorBoardLogger

    try:
        return TensorBoardLogger(run, name="", version="tensorboard")
    except ModuleNotFoundError as error:
        raise UserError(
            "--tensorboard true: tensorboard is not installed; pip install medsam2-ft[tensorboard]"
        ) from error


def run_loggers(run: str, wandb: WandbOptions, checkpoint: str | None = None) -> list[Logger]:
    """Returns the CSV logger and, if switched on, Weights & Biases.

    Args:
        run: The run folder; ``wandb_id`` in it keeps the W&B run the same over restarts.
        wandb: Options.
        checkpoint: Where training resumes from; keeps the W&B run the same in a new run folder.
    """
    loggers: list[Logger] = [MetricsCsv(run)]
    if wandb.mode != "off":
        from medsam2_ft.wandb_run import wandb_logger

        loggers.append(
            wandb_logger(
                Path(run),
                project=wandb.project,
                entity=wandb.entity,
                offline=wandb.mode == "offline",
                checkpoint=None if checkpoint is None else Path(checkpoint),
            )
        )
    return loggers
