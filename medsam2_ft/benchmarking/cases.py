"""Which cases are evaluated: data folders, splits, shards, and who the patients are."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medsam2_ft.data.splits import SPLITS, Split
from medsam2_ft.download import sha256_of
from medsam2_ft.errors import UserError
from medsam2_ft.inspection.folder import find_case_files
from medsam2_ft.io.npz import read_case
from medsam2_ft.types import Case

_MANIFEST: Final = "manifest.json"


@dataclass(frozen=True)
class CaseSource:
    """One case file.

    Attributes:
        dataset: Name of the data set, that of its folder.
        name: File stem, with its folder in front where two files share it.
        path: The npz file.
        group: The patient, where ``manifest.json`` knows; else the name.
    """

    dataset: str
    name: str
    path: Path
    group: str

    @property
    def key(self) -> tuple[str, str]:
        """Data set and name."""
        return self.dataset, self.name

    def sha256(self) -> str:
        """Returns the checksum of the file.

        Raises:
            UserError: The file cannot be read.
        """
        try:
            return sha256_of(self.path)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error

    def read(self) -> Case:
        """Returns the case.

        Raises:
            UserError: It is no readable case.
        """
        return read_case(self.path)


@dataclass(frozen=True)
class Shard:
    """One of several parts of the cases.

    Attributes:
        number: From 1 on.
        count: Number of parts.
    """

    number: int
    count: int

    def holds(self, case: CaseSource) -> bool:
        """Whether the case belongs to this part: by its name alone, the same on any machine."""
        digest = hashlib.sha256(f"{case.dataset}\0{case.name}".encode()).digest()
        return int.from_bytes(digest[:8]) % self.count == self.number - 1

    @property
    def folder_name(self) -> str:
        """Name of its folder below ``shards``."""
        return f"{self.number}-of-{self.count}"


def parse_shard(text: str) -> Shard:
    """Reads ``2/8``.

    Raises:
        UserError: It is not of that form, or the number is not between 1 and the count.
    """
    number, _, count = text.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return Shard(int(number), int(count))
    raise UserError(f"--shard {text}: give the part and the number of parts, as in 2/8")


def find_sources(
    folders: Sequence[Path], splits: Sequence[Split] | None, limit: int | None
) -> list[CaseSource]:
    """Lists the cases to evaluate, sorted by data set and name.

    Args:
        folders: Data folders; each is a data set, called like its folder.
        splits: Splits whose cases count. None: ``test`` where a folder has splits, else all.
        limit: At most so many cases of each data set, the first ones by name.

    Raises:
        UserError: A folder is missing, holds no such case, or two have one name.
    """
    names = Counter(_dataset_name(folder) for folder in folders)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(
            f"two data folders are called {twice[0]}, which tables could not tell apart; rename one"
        )
    found: list[CaseSource] = []
    for folder in folders:
        found += _of_folder(folder, splits)[:limit]
    return sorted(found, key=lambda case: case.key)


def _dataset_name(folder: Path) -> str:
    return folder.resolve().name or str(folder)


def _of_folder(folder: Path, splits: Sequence[Split] | None) -> list[CaseSource]:
    files = find_case_files(folder)
    if splits is None:
        splits = ["test"] if any(file.split for file in files) else None
    if splits is not None:
        here = Counter(file.split for file in files)
        files = [file for file in files if file.split in splits]
        if not files:
            known = ", ".join(f"{split}: {here[split]}" for split in SPLITS if here[split])
            raise UserError(
                f"{folder}: no case in the split {', '.join(splits)} ({known or 'no splits'}); "
                "choose others with --splits"
            )
    groups = _groups(folder)
    stems = Counter(file.path.stem for file in files)
    cases = []
    for file in files:
        stem = file.path.stem
        name = stem if stems[stem] == 1 else file.file.removesuffix(".npz")
        cases.append(CaseSource(_dataset_name(folder), name, file.path, groups.get(stem, name)))
    return sorted(cases, key=lambda case: case.name)


def _groups(folder: Path) -> Mapping[str, str]:
    """Patient by case name, as ``medsam2-ft prepare`` found them; empty without its manifest."""
    path = folder / _MANIFEST
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(entry["name"]): str(entry["group"]) for entry in content["written"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be used ({error!r}); restore the file, or move it away to count "
            "every case as a patient"
        ) from error
