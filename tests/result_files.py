"""Reads the tables that a benchmark writes."""

import csv
import gzip
from pathlib import Path

Row = dict[str, str]
COSTS = ("case_seconds", "seconds_per_frame", "peak_rss_mb", "peak_cuda_mb")


def rows_of(out: Path) -> list[Row]:
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def scores_of(out: Path) -> list[Row]:
    """All rows without what differs from run to run."""
    return [{k: v for k, v in row.items() if k not in COSTS} for row in rows_of(out)]


def slices_of(out: Path) -> list[Row]:
    with gzip.open(out / "slices.csv.gz", "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
