"""metrics.csv over several starts of a run."""

import csv
from pathlib import Path

import pytest

from medsam2_ft.run_log import MetricsCsv


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_appended_over_restarts_and_new_metrics_get_a_column(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = MetricsCsv(str(run))
    first.log_metrics({"train/loss": 1.5, "epoch": 0}, step=0)
    first.log_metrics({"val/dsc": 0.25, "epoch": 0}, step=9)
    second = MetricsCsv(str(run))
    second.log_metrics({"train/loss": 1.25, "epoch": 1}, step=10)
    read = rows(run)
    assert [row["step"] for row in read] == ["0", "9", "10"]
    assert [row["train/loss"] for row in read] == ["1.5", "", "1.25"]
    assert [row["val/dsc"] for row in read] == ["", "0.25", ""]


def test_resuming_drops_what_will_be_logged_again(tmp_path: Path) -> None:
    before = MetricsCsv(str(tmp_path))
    for step in range(6):
        before.log_metrics({"train/loss": float(step)}, step=step)
    after = MetricsCsv(str(tmp_path))
    after.truncate_after(4)
    after.log_metrics({"train/loss": 40.0, "lr/encoder": 0.1}, step=4)
    read = rows(tmp_path)
    assert [float(row["train/loss"]) for row in read] == [0, 1, 2, 3, 40]
    assert [row["step"] for row in read] == list("01234")


def test_truncating_nothing_makes_no_file(tmp_path: Path) -> None:
    MetricsCsv(str(tmp_path)).truncate_after(3)
    assert not (tmp_path / "metrics.csv").exists()


def test_a_comma_in_a_name_does_not_move_columns(tmp_path: Path) -> None:
    log = MetricsCsv(str(tmp_path))
    log.log_metrics({"val/node, left/dsc": 0.5}, step=0)
    log.log_metrics({'val/a "b"': 0.25}, step=1)  # a new column: the file is written anew
    assert [row["val/node, left/dsc"] for row in rows(tmp_path)] == ["0.5", ""]
    assert [row['val/a "b"'] for row in rows(tmp_path)] == ["", "0.25"]


HALF_ROW = "1,0,0.2"  # without its end, as a kill or a full disk leaves it


@pytest.mark.parametrize("metric", ["train/loss", "val/dsc"])
def test_half_a_row_at_the_end_is_written_anew(metric: str, tmp_path: Path) -> None:
    """Whether the next row is appended or, with a new column, the file is written anew."""
    MetricsCsv(str(tmp_path)).log_metrics({"train/loss": 0.5, "epoch": 0}, step=0)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write(HALF_ROW)
    after = MetricsCsv(str(tmp_path))
    after.truncate_after(5)
    after.log_metrics({metric: 0.25, "epoch": 0}, step=1)
    read = rows(tmp_path)
    assert [row["step"] for row in read] == ["0", "1"]
    assert read[0]["train/loss"] == "0.5"
    assert read[1][metric] == "0.25"


def test_half_a_row_of_this_very_process_is_written_anew(tmp_path: Path) -> None:
    log = MetricsCsv(str(tmp_path))
    log.log_metrics({"train/loss": 0.5}, step=0)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write(HALF_ROW)
    log.log_metrics({"train/loss": 0.25}, step=1)
    assert [row["train/loss"] for row in rows(tmp_path)] == ["0.5", "0.25"]
