"""What prepare knows about each case, and the files in which it keeps that."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import write_failure, write_json
from medsam2_ft.prepare.patients import Veil

MANIFEST = "manifest.json"
SPLITS = "splits.json"
WORK = ".prepare"
FORMAT = 1
"""Grows when prepare makes other cases from the same input: then all are built again."""

Status = Literal["written", "skipped", "failed"]


@dataclass(frozen=True)
class Record:
    """One case in the manifest.

    Attributes:
        name: Case name, stem of its npz file.
        status: Whether it was written, skipped (without labels) or failed.
        root: Digest of where the image folder lies; tells inputs apart without showing paths.
        image: Image file relative to the image folder.
        label: Label file relative to the label folder, None where there is none.
        sources: sha256 by relative path of image and label, and of the data files of detached
            headers; the files of a series, a video or parts have one together.
        settings: What the result depends on besides the sources.
        group: Cases of one group are never in different splits.
        split: Where the case lies, empty unless written.
        reason: Why it was skipped or failed.
        sha256: Checksum of the npz file, empty unless written.
        image_sha256: Checksum of the image in it; see ``leakage.image_sha256``.
        modality: Of the image.
        shape: Of the image.
        spacing_mm: (z, y, x).
        intensity: The rule that made the 0-255 values.
        labels: Per label id, name and voxel count, and the ids that it was merged from.
        dropped: What the label clean-up removed.
        notes: What a user should know about this case.
    """

    name: str
    status: Status
    root: str
    image: str
    label: str | None
    sources: Mapping[str, str]
    settings: Mapping[str, Any]
    group: str
    split: str = ""
    reason: str = ""
    sha256: str = ""
    image_sha256: str = ""
    modality: str = ""
    shape: Sequence[int] = ()
    spacing_mm: Sequence[float] = ()
    intensity: Mapping[str, Any] = field(default_factory=dict)
    labels: Sequence[Mapping[str, Any]] = ()
    dropped: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()

    def to_json(self, veil: Veil) -> dict[str, Any]:
        """Returns the record as plain JSON types, without what is empty and without identifiers.

        The record itself keeps the paths that messages on the terminal need.
        """
        notes = [veil.text(note) for note in self.notes]
        public = replace(self, reason=veil.text(self.reason), notes=notes)
        return {
            key: value for key, value in _plain(asdict(public)).items() if value not in ("", [])
        }


def record_from_json(entry: Mapping[str, Any]) -> Record:
    """Reads what ``Record.to_json`` made.

    Raises:
        TypeError: A key is unknown or missing.
    """
    return Record(**entry)


def _plain(obj: Any) -> Any:
    return json.loads(json.dumps(obj))


def same_input(old: Record, new: Record) -> bool:
    """Returns whether two records were made from the same bytes with the same settings."""
    return (old.sources, _plain(old.settings), old.image, old.label) == (
        new.sources,
        _plain(new.settings),
        new.image,
        new.label,
    )


@dataclass(frozen=True)
class Manifest:
    """The output folder's table of contents.

    Attributes:
        records: By case name.
        split: How the split was made (seed, shares, group pattern, or file).
    """

    records: Mapping[str, Record] = field(default_factory=dict)
    split: Mapping[str, Any] = field(default_factory=dict)


def read_manifest(out: Path) -> Manifest:
    """Reads the manifest of an output folder; an empty one where there is none.

    Raises:
        UserError: The file is damaged or from another version.
    """
    path = out / MANIFEST
    if not path.exists():
        return Manifest()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, expected {FORMAT}")
        listed = [entry for status in ("written", "skipped", "failed") for entry in content[status]]
        records = {entry["name"]: record_from_json(entry) for entry in listed}
        return Manifest(records, content["split"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be used ({error}); restore the file, or give another --out"
        ) from error


def write_manifest(
    out: Path, manifest: Manifest, lists: Mapping[str, Sequence[Any]], veil: Veil, version: str
) -> None:
    """Writes ``manifest.json`` and ``splits.json`` where their content changes.

    Args:
        out: Output folder.
        manifest: What to write.
        lists: Further entries: label files that belong to no image, and the like.
        veil: Keeps identifiers out of the file.
        version: Version of the program.

    Raises:
        UserError: The folder cannot be written.
    """
    ordered = [manifest.records[name] for name in sorted(manifest.records)]
    by_status = {
        status: [record.to_json(veil) for record in ordered if record.status == status]
        for status in ("written", "skipped", "failed")
    }
    content = {
        "format": FORMAT,
        "medsam2_ft": version,
        "split": dict(manifest.split),
        **by_status,
        **{key: list(entries) for key, entries in lists.items()},
    }
    splits = {
        split: [r.name for r in ordered if r.status == "written" and r.split == split]
        for split in ("train", "val", "test")
    }
    for path, obj in ((out / SPLITS, splits), (out / MANIFEST, content)):
        if _read_json(path) != _plain(obj):
            write_json(path, obj)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


class Journal:
    """Records of finished cases, one line each, so that a killed run loses none of them."""

    def __init__(self, out: Path, veil: Veil) -> None:
        self.veil = veil
        self.path = out / WORK / "journal.jsonl"

    def read(self) -> dict[str, Record]:
        """Returns the records of an interrupted run; a line that was cut off is passed over."""
        records = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = record_from_json(json.loads(line))
                except (ValueError, TypeError):
                    continue  # written when the process or the machine died; the case is redone
                records[record.name] = record
        return records

    def append(self, record: Record) -> None:
        """Adds a record durably.

        Raises:
            UserError: The disk is full or not writable.
        """
        line = json.dumps(record.to_json(self.veil), ensure_ascii=False)
        try:
            # a name that is no UTF-8 gets JSON's own escapes
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(f"\n{line}\n")  # the line before may have been cut off
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise write_failure(self.path, error) from error
