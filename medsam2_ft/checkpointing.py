"""Checkpoints that survive a kill: atomic writes, one newest file, exact points to resume from."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import atomic_path, make_folder, remove_temporaries
from medsam2_ft.io.disk_wait import require_folder
from medsam2_ft.ranks import first_writes
from medsam2_ft.weights import read_checkpoint, write_checkpoint

LAST_CHECKPOINT = "last.ckpt"
RESUME_NEWEST = "last"
GO_ON = f"add --ckpt_path {RESUME_NEWEST} to go on"
BEST_CHECKPOINT = "best"
# Folders of a run that training writes to.
WRITTEN = ("checkpoints", "exports", "pictures")
# What training needs to go on; a file of weights alone has none of it.
NEEDED_KEYS = ("state_dict", "hyper_parameters", "optimizer_states", "loops", "callbacks")


def checkpoint_folder(run: str | Path) -> Path:
    """Returns where a run keeps its checkpoints."""
    return Path(run) / "checkpoints"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, renames.

    Lightning writes to the temporary folder and moves, which copies across file systems: a kill
    during the copy leaves a truncated file under the final name.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: set[Path] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Saves ``checkpoint``; the file at ``path`` is the old one or the new one, never half."""
        if Path(path).parent not in self._made:  # one that is gone later is not made again
            self._made.add(make_folder(Path(path).parent))
        with atomic_path(Path(path)) as temporary:
            write_checkpoint(checkpoint, temporary)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads plain data only, whatever ``weights_only`` says: nothing is ever executed.

        Raises:
            UserError: The file is missing, truncated, or holds more than plain data.
        """
        content: dict[str, Any] = read_checkpoint(Path(path))
        return content


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the best validation score as ``<run>/checkpoints/best.ckpt``.

    It compares and saves at the end of the epoch, when validation is over, so that a resumed run
    never has to repeat half a validation.

    Args:
        monitor: Logged metric to select on.
        mode: Whether the metric is better when larger (``max``) or smaller (``min``).
        every_n_epochs: How often the metric is there; linked to ``propagation.every_n_epochs``.
        dirpath: Folder; linked to the run folder.
    """

    def __init__(
        self,
        monitor: str = "val/volume_dsc",
        mode: Literal["max", "min"] = "max",
        every_n_epochs: int = 1,
        dirpath: str | None = None,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=BEST_CHECKPOINT,
            monitor=monitor,
            mode=mode,
            every_n_epochs=every_n_epochs,
            save_top_k=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Lightning's own, but all ranks wait for the disk and agree on what became of it."""
        save_together(trainer, Path(filepath))
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath


class LastCheckpoint(Checkpoint):
    """Keeps the newest state of a run as ``<run>/checkpoints/last.ckpt``.

    Saves every ``every_n_steps`` optimiser steps and at the end of epochs. A step that is the
    last of its epoch is saved after the epoch's validation. A run that is killed in between repeats
    the steps since the previous save and comes to the same result; one that is preempted in
    between (`Preemption`) is saved, and does all of the validation when it is resumed.

    Args:
        every_n_steps: Optimiser steps between two saves within an epoch; 0 saves at the end of
            epochs only.
        every_n_epochs: Epochs between two saves at the end of an epoch; the last one always saves.
        wait_for_disk_min: For how many minutes a run waits when the disk is full or gone, whatever
            it writes; then it ends. The others wait for the first process. 0 ends it at once.
        dirpath: Folder; linked to the run folder.
    """

    def __init__(
        self,
        every_n_steps: int = 200,
        every_n_epochs: int = 1,
        wait_for_disk_min: float = 30.0,
        dirpath: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= wait_for_disk_min < math.inf:
            raise UserError(f"last.wait_for_disk_min={wait_for_disk_min}: give minutes, 0 or more")
        if every_n_steps < 0 or every_n_epochs < 1:
            raise UserError(
                f"last.every_n_steps={every_n_steps}, last.every_n_epochs={every_n_epochs}: give"
                " steps of at least 0 (0 is off) and epochs of at least 1"
            )
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self.wait_for_disk_min = wait_for_disk_min
        self.dirpath = dirpath
        self._saved: tuple[int, int, int, bool] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Creates the run folder; removes what a killed start of this run has left half-written."""
        if stage == "fit" and trainer.is_global_zero:
            run = make_folder(Path(trainer.default_root_dir))
            for folder in (run, *(path for path in run.glob("*/") if path.name in WRITTEN)):
                remove_temporaries(folder)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where an optimiser step has just ended and the next one follows."""
        if self._is_due(trainer) and not work_follows(trainer):
            self.save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves before a validation within an epoch, instead of behind the step."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        # a checkpoint of an interrupted validation has marked it so, see `on_save_checkpoint`
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset()
        if self._is_due(trainer) and not trainer.is_last_batch:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves after validation, after the best checkpoint was updated."""
        epochs = trainer.current_epoch + 1
        if epochs % self.every_n_epochs == 0 or trainer.fit_loop.done:
            self.save(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Marks a validation that has begun, so that a resumed run does all of it.

        Lightning goes on with a validation whose last batch has started and has not ended; it has
        forgotten the scores of those before. So it is told that this was the first batch.
        """
        if trainer.validating and trainer.state.fn == "fit" and not trainer.sanity_checking:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress.update(total=begun, current=dict.fromkeys(begun, 0), is_last_batch=False)

    def save(self, trainer: Trainer) -> None:
        """Saves the present state, unless that is what was saved last, or nothing but a trial."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set dynamically
            return
        loop = trainer.fit_loop
        batches, epochs = loop.epoch_loop.batch_progress.current, loop.epoch_progress.current
        moment = (trainer.global_step, batches.completed, epochs.processed, trainer.validating)  # type: ignore[attr-defined]
        if moment == self._saved:
            return
        folder = checkpoint_folder(trainer.default_root_dir)
        folder = Path(self.dirpath) if self.dirpath else folder
        save_together(trainer, folder / LAST_CHECKPOINT)
        self._saved = moment

    @property
    def saved_step(self) -> int | None:
        """Optimiser steps done at the last save of this process."""
        return None if self._saved is None else self._saved[0]

    def _is_due(self, trainer: Trainer) -> bool:
        if self.every_n_steps == 0 or trainer.fit_loop.epoch_loop._should_accumulate():
            return False
        return trainer.global_step % self.every_n_steps == 0


def last_checkpoint_of(trainer: Trainer) -> LastCheckpoint | None:
    """Returns the callback that keeps a run's newest state; None where there is none."""
    return next((c for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)), None)


def write_in_run(trainer: Trainer, write: Callable[[], object]) -> None:
    """Writes below the run folder, in the first process; all ranks call this at the same point.

    Waits for a disk that is full or gone, see ``LastCheckpoint.wait_for_disk_min``.

    Raises:
        UserError: On all ranks, if the disk does not come back.
    """
    last = last_checkpoint_of(trainer)
    if last is None:  # nobody has made the run folder, nor said how long to wait for it
        first_writes(write, 0.0)
        return

    def checked() -> None:
        require_folder(trainer.default_root_dir)
        write()

    first_writes(checked, last.wait_for_disk_min)


def save_together(trainer: Trainer, path: Path) -> None:
    """Saves a checkpoint as ``Trainer.save_checkpoint`` does, but waits for the disk.

    Raises:
        UserError: On all ranks, if it could not be written; the old file is still there.
    """
    # with optimiser, loops and callbacks; unrelated to how files are loaded
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    write_in_run(trainer, lambda: trainer.strategy.save_checkpoint(checkpoint, path))


def work_follows(trainer: Trainer) -> bool:
    """Whether a validation or the end of the epoch follows the batch that has just ended.

    A checkpoint that is saved there resumes behind the validation, which would be skipped.
    """
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher
    if trainer.is_last_batch or fetcher is None or trainer._val_check_time_interval is not None:  # type: ignore[attr-defined]
        return trainer.is_last_batch
    return loop._should_check_val_fx(fetcher)


def newest_checkpoint(run: str | Path) -> Path | None:
    """Returns the checkpoint that ``--ckpt_path last`` means, None where there is none yet."""
    path = checkpoint_folder(run) / LAST_CHECKPOINT
    return path if path.is_file() else None


def check_checkpoint(path: Path) -> None:
    """Refuses a file that training cannot go on from, before anything is built.

    Raises:
        UserError: It is truncated, holds more than plain data, or was not written by ``fit``.
    """
    content = read_checkpoint(path)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), dict | list) for key in NEEDED_KEYS
    ):
        raise UserError(
            f"--ckpt_path {path}: not a training checkpoint of medsam2-ft; give a .ckpt file"
            " written by train.py fit (weights alone go to --model.weights)"
        )
