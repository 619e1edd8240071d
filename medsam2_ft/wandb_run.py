"""One Weights & Biases run per run folder, however often it is started."""

import functools
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from medsam2_ft.io.atomic import make_folder, write_text

ID_FILE = "wandb_id"
CHECKPOINT_KEY = "wandb_id"


class RunWandbLogger(WandbLogger):
    """Lightning's logger, but the W&B run ends with the training, whatever ends it.

    Lightning leaves that to the end of the process: a second start in the same process would log
    into the first one's W&B run, and a process that is not left through `atexit` loses the tail.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._is_cut_off = False
        # Lightning passes an option that W&B has dropped and warns about; it has no effect
        self._wandb_init.pop("anonymous", None)
        _keep_out_of_forks()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Logs a step, its pictures and its tables, as long as W&B's process is there."""
        if not self._is_cut_off:
            with self._while_connected():
                super().log_metrics(metrics, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Finishes the W&B run after success and after failure, Ctrl-C and SIGTERM alike."""
        super().finalize(status)
        # "finished" is what Lightning says in the middle of a run that SLURM will requeue
        if self._experiment is not None and status in ("success", "failed"):
            if not self._is_cut_off:
                with self._while_connected():
                    self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None

    @contextmanager
    def _while_connected(self) -> Iterator[None]:
        """Lets the training go on, or save and end, when W&B's process has ended.

        SLURM sends SIGTERM to every process of a job. W&B's obeys at once, while the training has
        a step to end and a checkpoint to write.
        """
        import wandb

        try:
            yield
        except ConnectionError:
            self._is_cut_off = True
            rank_zero_warn("W&B's process is gone: nothing more is logged there in this start.")
            with suppress(ConnectionError):
                wandb.teardown()  # or it would try, and fail, when this process ends


@functools.cache
def _keep_out_of_forks() -> None:
    """Keeps W&B's import hooks out of forked processes such as a loader's workers.

    W&B reports which packages are imported. It raises `ForkedError` where the import happens in a
    fork, and with it ends a training whose workers import albumentations.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        from wandb.sdk.lib.import_hooks import unregister_all_post_import_hooks

        os.register_at_fork(after_in_child=unregister_all_post_import_hooks)


class RememberWandbId(Callback):
    """Keeps the W&B run's id in every checkpoint."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stores the id, if W&B is on."""
        for logger in trainer.loggers:
            if isinstance(logger, RunWandbLogger) and logger.version is not None:
                checkpoint[CHECKPOINT_KEY] = logger.version


def wandb_logger(
    run: Path, *, project: str, entity: str | None, offline: bool, checkpoint: Path | None = None
) -> RunWandbLogger:
    """Returns a logger that continues the W&B run of this run folder.

    The id is drawn at the first start and kept in ``<run>/wandb_id`` and in checkpoints. Every
    start writes a folder of its own below ``<run>/wandb`` under that id; W&B joins them by
    ``trainer/global_step``.

    Args:
        run: The run folder; its name becomes the W&B run's name.
        project: W&B project.
        entity: W&B user or team, None for the account's default.
        offline: Whether to write files only, for `wandb sync` later.
        checkpoint: Where training resumes from; a run folder without an id takes this one's.
    """
    make_folder(run)
    return RunWandbLogger(
        name=run.name,
        save_dir=str(run),
        id=_run_id(run, checkpoint),
        resume="allow",
        project=project,
        entity=entity,
        offline=offline,
        log_model=False,
    )


@rank_zero_only
def _run_id(run: Path, checkpoint: Path | None) -> str:
    file = run / ID_FILE
    if not file.is_file():
        write_text(file, _stored_id(checkpoint) or secrets.token_hex(4))
    return file.read_text().strip()


def _stored_id(checkpoint: Path | None) -> str | None:
    """Reads the id from a checkpoint without reading its tensors."""
    if checkpoint is None:
        return None
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    found = content.get(CHECKPOINT_KEY)
    return None if found is None else str(found)
