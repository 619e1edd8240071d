"""The long tables: one row per object and column, and one per slice of each."""

import csv
import gzip
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from medsam2_ft.benchmarking.records import ObjectRecord, Record
from medsam2_ft.benchmarking.settings import unit_of
from medsam2_ft.io.atomic import atomic_path

RESULTS: Final = "results.csv"
SLICES: Final = "slices.csv.gz"

_CASE_COLUMNS: Final = (
    "dataset",
    "case",
    "patient",
    "modality",
    "kind",
    "model",
    "strategy",
    "status",
    "reason",
)
_OBJECT_COLUMNS: Final = (
    "label",
    "label_name",
    "prompt_slice",
    "x0",
    "y0",
    "x1",
    "y1",
    "z0",
    "z1",
    "voxels",
    "pred_voxels",
    "dsc",
    "nsd",
    "hd95",
    "tolerance",
    "unit",
)
_COST_COLUMNS: Final = (
    "slices",
    "frames",
    "case_seconds",
    "seconds_per_frame",
    "peak_rss_mb",
    "peak_cuda_mb",
    "device",
)
RESULT_COLUMNS: Final = (*_CASE_COLUMNS, *_OBJECT_COLUMNS, *_COST_COLUMNS)
SLICE_COLUMNS: Final = (
    "dataset",
    "case",
    "modality",
    "kind",
    "model",
    "strategy",
    "label",
    "slice",
    "distance",
    "dsc",
)

Cell = str | int | float


def write_results(path: Path, records: Sequence[Record]) -> None:
    """Writes one row per case, label, model and strategy.

    A case without a score (failed, or without an object) is one row that says why. Time and
    memory are those of the whole case, all objects together, and stand in each of its rows. NaN
    is an empty field, infinity ``inf``.

    Args:
        path: CSV file.
        records: In the order of the rows.

    Raises:
        UserError: The file cannot be written.
    """

    def rows() -> Iterator[Sequence[Cell]]:
        for record in records:
            if not record.objects:
                yield [*_case_cells(record), *[""] * len(_OBJECT_COLUMNS), *_cost_cells(record)]
            for one in record.objects:
                yield [*_case_cells(record), *_object_cells(record, one), *_cost_cells(record)]

    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        _write_rows(file, RESULT_COLUMNS, rows())


def write_slices(path: Path, records: Sequence[Record]) -> None:
    """Writes one row per slice of each object, with its signed distance from the prompt.

    Args:
        path: Gzipped CSV file; the same records give the same bytes.
        records: In the order of the rows.

    Raises:
        UserError: The file cannot be written.
    """

    def rows() -> Iterator[Sequence[Cell]]:
        for r in records:
            for one in r.objects:
                head = (r.dataset, r.case, r.modality, r.kind, r.model, r.strategy, one.label)
                for frame, dsc in enumerate(one.slice_dsc, start=one.first):
                    yield [*head, frame, frame - one.prompt_frame, dsc]

    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as raw,
        # without the file's name and time, which gzip would write into it
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as file,
    ):
        _write_rows(file, SLICE_COLUMNS, rows())


def _write_rows(
    file: io.TextIOWrapper, header: Sequence[str], rows: Iterator[Sequence[Cell]]
) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Cell) -> Cell:
    """A number as it is, to the last digit; NaN as an empty field."""
    return "" if isinstance(value, float) and math.isnan(value) else value


def _case_cells(record: Record) -> list[Cell]:
    names: tuple[str, ...] = tuple("group" if name == "patient" else name for name in _CASE_COLUMNS)
    return [getattr(record, name) for name in names]


def _object_cells(record: Record, one: ObjectRecord) -> list[Cell]:
    return [
        one.label,
        one.label_name,
        one.prompt_frame,
        *one.box_xyxy,
        one.first,
        one.last,
        one.voxels,
        one.pred_voxels,
        one.dsc,
        one.nsd,
        one.hd95,
        one.tolerance,
        unit_of(record.kind),
    ]


def _cost_cells(record: Record) -> list[Cell]:
    return [
        record.slices,
        record.frames,
        record.seconds,
        record.seconds / record.frames if record.frames else math.nan,
        record.peak_rss_mb,
        record.peak_cuda_mb,
        record.device,
    ]
