"""The run folder's ``metrics.csv``: one row per logged step, every start of a run appends."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from medsam2_ft.io.atomic import make_folder, write_text

METRICS_FILE = "metrics.csv"
KEYS = ("step", "epoch")


class MetricsCsv(Logger):
    """Logs to ``<run>/metrics.csv``.

    Lightning's CSVLogger deletes what an earlier start of the same run has logged. Here a new start
    keeps the rows up to the step that it resumes from (`TruncateMetrics` says which) and appends.
    Every row is on disk when ``log_metrics`` returns.

    Args:
        run: The run folder; created with the first row.
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self.path = Path(run) / METRICS_FILE
        self._columns: list[str] = []

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
        row = {"step": step, **metrics}
        if not self._columns and self.path.is_file():
            self._columns = self._read()[0]
        new = [key for key in (*KEYS, *sorted(row)) if key not in self._columns]
        if new:
            _, rows = self._read()
            self._columns += list(dict.fromkeys(new))
            self._write(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(row)

    @rank_zero_only
    def truncate_after(self, step: int) -> None:
        """Drops rows of steps later than ``step``, which a resumed run will log again."""
        columns, rows = self._read()
        kept = [row for row in rows if row["step"] and int(row["step"]) < step]
        if len(kept) < len(rows):
            self._columns = columns
            self._write(kept)

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        if not self.path.is_file():
            return [], []
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            return list(reader.fieldnames or ()), rows

    def _write(self, rows: list[dict[str, str]]) -> None:
        lines = [self._columns, *([row.get(key, "") for key in self._columns] for row in rows)]
        make_folder(self.path.parent)
        text = "".join(",".join(line) + "\n" for line in lines)
        write_text(self.path, text)


class TruncateMetrics(Callback):
    """Cuts the run's `MetricsCsv` back to the step from which training goes on."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs after a checkpoint was restored."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCsv):
                logger.truncate_after(trainer.global_step)
