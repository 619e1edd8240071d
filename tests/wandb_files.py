"""Reads the files that W&B writes: a log of protobuf records in LevelDB's format."""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

FILE_HEADER = 7
BLOCK = 32768
CHUNK_HEADER = struct.Struct("<IHB")  # checksum, length, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def starts(run: Path) -> list[Path]:
    """The ``.wandb`` files of a run folder, one for each start, oldest first."""
    return sorted((run / "wandb").glob("offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime_ns)


def records(file: Path) -> Iterator[Record]:
    """Every record that is whole; checksums are verified."""
    data = file.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = FILE_HEADER, b""
    while position + CHUNK_HEADER.size <= len(data):
        if BLOCK - position % BLOCK < CHUNK_HEADER.size:  # no room for a header: zeros
            position += BLOCK - position % BLOCK
            continue
        checksum, length, kind = CHUNK_HEADER.unpack_from(data, position)
        position += CHUNK_HEADER.size
        chunk = data[position : position + length]
        position += length
        if len(chunk) < length:  # cut off by a kill
            return
        assert zlib.crc32(bytes([kind]) + chunk) == checksum
        parts = chunk if kind in (FULL, FIRST) else parts + chunk
        if kind in (FULL, LAST):
            yield Record.FromString(parts)


def history(file: Path) -> list[dict[str, Any]]:
    """Logged rows: metric names with their values."""
    rows = []
    for record in records(file):
        if record.HasField("history"):
            items = record.history.item
            rows.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def config(file: Path) -> dict[str, Any]:
    """The run's configuration after all updates."""
    values: dict[str, Any] = {}
    for record in records(file):
        updates = [record.run.config.update, record.config.update]
        for item in (item for update in updates for item in update):
            target, keys = values, list(item.nested_key) or [item.key]
            for key in keys[:-1]:
                target = target.setdefault(key, {})
            target[keys[-1]] = json.loads(item.value_json)
    return values


def run_ids(file: Path) -> set[str]:
    return {record.run.run_id for record in records(file) if record.HasField("run")}


def exit_code(file: Path) -> int | None:
    """What W&B was told at the end, None where nobody told it."""
    codes = [record.exit.exit_code for record in records(file) if record.HasField("exit")]
    return codes[-1] if codes else None
