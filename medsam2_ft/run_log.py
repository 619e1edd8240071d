"""What a run writes down: ``metrics.csv``, one row per logged step, and its configuration."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from medsam2_ft.checkpointing import write_in_run
from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import make_folder, write_failure, write_text
from medsam2_ft.io.disk_wait import is_disk_trouble

METRICS_FILE = "metrics.csv"
KEYS = ("step", "epoch")


class MetricsCsv(Logger):
    """Logs to ``<run>/metrics.csv``.

    Lightning's CSVLogger deletes what an earlier start of the same run has logged. Here a new start
    keeps the rows up to the step that it resumes from (`MetricsInStep` says which) and appends.
    Every row is on disk when ``log_metrics`` returns, unless the disk is full or gone: then rows
    are kept in memory until the next one, or until a checkpoint waits for the disk.

    Args:
        run: The run folder; created with the first row.
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self.path = Path(run) / METRICS_FILE
        self._columns: list[str] = []
        self._waiting: list[dict[str, Any]] = []
        # Bytes of complete rows in the file; what lies behind is half a row.
        self._size = 0
        self._ahead: tuple[int, frozenset[str]] | None = None
        self._trouble = False

    @property
    def name(self) -> str:
        """Nothing: files lie in the run folder itself."""
        return ""

    @property
    def version(self) -> str:
        """Nothing: a run has no versions."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Does nothing: ``config.yaml`` in the run folder holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Appends one row; a metric that was not there before rewrites the file with its column."""
        if self._ahead == (step, frozenset(metrics)):
            self._ahead = None
            return
        self._waiting.append({"step": step, **metrics})
        try:
            self.flush()
        except (OSError, UserError) as error:
            if not is_disk_trouble(error):
                raise
            if not self._trouble:
                rank_zero_warn(f"{error}: rows are kept in memory until the next checkpoint")
            self._trouble = True

    @rank_zero_only
    def flush(self) -> None:
        """Writes the rows that are still in memory.

        Raises:
            OSError: The disk is full or gone; nothing is lost, half a row is overwritten later.
            UserError: The same, where a new column needs a new file.
        """
        if not self._waiting:
            return
        if not self._columns:
            self._columns = self._read()[0]
        keys = dict.fromkeys((*KEYS, *sorted({key for row in self._waiting for key in row})))
        columns = list(dict.fromkeys((*self._columns, *keys)))
        if columns != self._columns:
            self._write(columns, [*self._read()[1], *self._waiting])
        else:
            text = _table(columns, self._waiting, header=False)
            with self.path.open("r+b") as file:
                file.truncate(self._size)
                file.seek(self._size)
                file.write(text)
            self._size += len(text)
        self._waiting = []
        self._trouble = False

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what is still in memory.

        Raises:
            UserError: After success only, if that is not possible.
        """
        try:
            self.flush()
        except (OSError, UserError) as error:
            if status == "success":
                raise UserError(
                    f"{self.path}: the last rows cannot be written ({error})"
                ) from error

    @rank_zero_only
    def log_ahead(self, metrics: dict[str, float], step: int) -> None:
        """Logs what `log_metrics` is about to be given; that call then does nothing."""
        self.log_metrics(metrics, step)
        self._ahead = (step, frozenset(metrics))

    @rank_zero_only
    def truncate_after(self, step: int) -> None:
        """Drops rows of steps later than ``step``, which a resumed run will log again."""
        columns, rows = self._read()
        kept = [row for row in rows if row["step"] and int(row["step"]) < step]
        if len(kept) < len(rows):
            self._write(columns, kept)

    def _read(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Returns columns and complete rows; a kill or a full disk may have left half a row."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        self._size = content.rfind(b"\n") + 1
        reader = csv.DictReader(io.StringIO(content[: self._size].decode(), newline=""))
        rows: list[dict[str, Any]] = list(reader)
        return list(reader.fieldnames or ()), rows

    def _write(self, columns: list[str], rows: list[dict[str, Any]]) -> None:
        if not self._size:
            make_folder(self.path.parent)
        text = _table(columns, rows, header=True)
        write_text(self.path, text.decode())
        self._columns, self._size = columns, len(text)


def _table(columns: list[str], rows: list[dict[str, Any]], *, header: bool) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


class MetricsInStep(Callback):
    """Keeps `MetricsCsv` complete up to every checkpoint, and cuts it back when one is resumed."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops later rows; runs after a checkpoint was restored."""
        for logger in _csv_loggers(trainer):
            logger.truncate_after(trainer.global_step)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Writes the row of the step that has just ended, before the checkpoint is there.

        Lightning logs a step after the callbacks that save it: a run that is killed in between
        would resume behind a row that was never written.
        """
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        connector = trainer._logger_connector
        in_batch = batches.processed > batches.completed  # type: ignore[attr-defined]
        loggers = _csv_loggers(trainer)
        if in_batch and connector.should_update_logs:
            metrics = convert_tensors_to_scalars(connector.metrics["log"])
            metrics.setdefault("epoch", trainer.current_epoch)
            for logger in loggers:
                logger.log_ahead(metrics, trainer.global_step - 1)
        for logger in loggers:
            write_in_run(trainer, logger.flush)


class SaveRunConfig(SaveConfigCallback):
    """Writes the configuration to ``<run>/config.yaml`` and gives it to the loggers.

    ``validate`` and ``test`` write ``validate_config.yaml`` and ``test_config.yaml``: what the run
    was trained with stays.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Picks the file; Lightning's own class writes it.

        Raises:
            UserError: The run folder cannot be created or written.
        """
        if stage != "fit":
            self.config_filename = f"{stage}_config.yaml"
        folder = make_folder(Path(trainer.default_root_dir))
        try:
            super().setup(trainer, pl_module, stage)
        except OSError as error:
            raise write_failure(folder / self.config_filename, error) from error

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Logs model, data, seed and everything else as they are used, on the first process."""
        if stage == "fit":
            config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
            for logger in trainer.loggers:
                logger.log_hyperparams(config)


def _csv_loggers(trainer: Trainer) -> list[MetricsCsv]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsCsv)]
