"""What the benchmark knows about each finished (case, model, strategy), and where it keeps that."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from medsam2_ft.benchmarking.settings import Kind
from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import write_failure

JOURNAL = "records.jsonl"

Status = Literal["scored", "empty", "failed"]


@dataclass(frozen=True)
class ObjectRecord:
    """One object of a case as one model segmented it.

    Attributes:
        label: Its id.
        label_name: Its name, or the id as text.
        prompt_frame: The slice of the box.
        box_xyxy: The box in pixels of the case, as the model got it.
        first: First slice that was segmented and scored.
        last: Last one.
        voxels: Size of the truth in these slices.
        pred_voxels: Size of the prediction.
        dsc: In [0, 1].
        nsd: In [0, 1].
        hd95: In mm for a volume, else in pixels; infinite where nothing was segmented.
        tolerance: Of the NSD, in the same unit.
        slice_dsc: DSC of each slice from ``first`` to ``last``; NaN where truth and prediction
            are both empty.
        peeks: Masks of slices that figures show: slice index -> packed bits, see ``peeks``.
    """

    label: int
    label_name: str
    prompt_frame: int
    box_xyxy: Sequence[float]
    first: int
    last: int
    voxels: int
    pred_voxels: int
    dsc: float
    nsd: float
    hd95: float
    tolerance: float
    slice_dsc: Sequence[float]
    peeks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One case as one model segmented it with one strategy.

    Attributes:
        dataset: Name of the data set.
        case: Name of the case within it.
        sha256: Checksum of the case's file.
        group: Patient, where the data set's manifest knows; else the case.
        path: Where the file lay, for figures.
        model: Name of the model.
        model_key: Tells its weights and input size from others of that name.
        strategy: How masks were propagated.
        settings: ``Settings.fingerprint``.
        status: ``scored``; ``empty`` for a case without an object; ``failed``.
        reason: Why it is not scored.
        modality: Of the case, or ``unknown``.
        kind: Image, volume or video.
        slices: Number of slices or frames of the case.
        frames: Number of them that were segmented.
        seconds: From the image in memory to masks of all objects; loading excluded.
        peak_rss_mb: Largest memory of the process meanwhile, in MiB.
        peak_cuda_mb: Largest memory on the GPU, in MiB; NaN without one.
        device: Where the model ran.
        objects: Empty unless scored.
    """

    dataset: str
    case: str
    sha256: str
    group: str
    path: str
    model: str
    model_key: str
    strategy: str
    settings: str
    status: Status
    reason: str = ""
    modality: str = "unknown"
    kind: Kind = "2D"
    slices: int = 0
    frames: int = 0
    seconds: float = math.nan
    peak_rss_mb: float = math.nan
    peak_cuda_mb: float = math.nan
    device: str = ""
    objects: Sequence[ObjectRecord] = ()

    @property
    def case_key(self) -> tuple[str, str]:
        """Data set and case."""
        return self.dataset, self.case

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Data set, case, model and strategy."""
        return self.dataset, self.case, self.model, self.strategy

    @property
    def input_key(self) -> tuple[str, ...]:
        """Everything that the scores depend on."""
        return (*self.key, self.sha256, self.model_key, self.settings)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON types; NaN is null and infinity ``"inf"``."""
        plain = _plain(asdict(self))
        assert isinstance(plain, dict)
        return plain


def record_from_json(entry: Mapping[str, Any]) -> Record:
    """Reads what ``Record.to_json`` made.

    Raises:
        TypeError: A key is unknown or missing.
        KeyError: It is no record.
        ValueError: A number is none.
    """
    objects = tuple(ObjectRecord(**_numbers(ObjectRecord, one)) for one in entry["objects"])
    return Record(**{**_numbers(Record, entry), "objects": objects})


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _numbers(kind: type[Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Turns what stands for NaN and infinity back into numbers."""
    values = dict(entry)
    for one in fields(kind):
        if one.type is float and one.name in values:
            found = values[one.name]
            values[one.name] = math.nan if found is None else float(found)
    if "slice_dsc" in values:
        values["slice_dsc"] = [math.nan if d is None else d for d in values["slice_dsc"]]
    return values


class Journal:
    """Finished records, one line each, so that a killed run loses none of them.

    Args:
        folder: Results folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL

    def read(self) -> list[Record]:
        """Returns all records in the order of writing; a line that was cut off is passed over."""
        if not self.path.exists():
            return []
        records = []
        try:
            with self.path.open(encoding="utf-8", errors="replace") as stream:
                for line in stream:
                    try:
                        records.append(record_from_json(json.loads(line)))
                    except (ValueError, TypeError, KeyError):
                        continue  # written when the process or the machine died; it is redone
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        return records

    def append(self, record: Record) -> None:
        """Adds a record durably.

        Raises:
            UserError: The disk is full or not writable.
        """
        line = json.dumps(record.to_json(), ensure_ascii=False, allow_nan=False)
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(f"\n{line}\n")  # the line before may have been cut off
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise write_failure(self.path, error) from error


def newest(records: Iterable[Record]) -> list[Record]:
    """Keeps the last record of each (case, model, strategy), sorted by that."""
    by_key = {record.key: record for record in records}
    return [by_key[key] for key in sorted(by_key)]
