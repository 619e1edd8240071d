"""Splits cases into train, val and test: by a seed, or as a file says."""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.naming import case_name

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_SHOWN = 5  # how many names a message lists


def check_shares(val_share: float, test_share: float, prefix: str = "") -> None:
    """Raises ``UserError`` unless both shares are in [0, 1) and leave something to train on.

    Args:
        val_share: Share of validation.
        test_share: Share of testing.
        prefix: What stands before the options' names, such as ``data.``.
    """
    val, test = f"--{prefix}val_share", f"--{prefix}test_share"
    for name, share in ((val, val_share), (test, test_share)):
        if not 0 <= share < 1:
            raise UserError(f"{name} is {share}; it must be at least 0 and less than 1")
    if val_share + test_share >= 1:
        raise UserError(
            f"{val} {val_share} and {test} {test_share} leave nothing to train on; "
            "their sum must be less than 1"
        )


def split_groups(
    groups: Iterable[str],
    *,
    val_share: float,
    test_share: float,
    seed: int,
    fixed: Mapping[str, Split] | None = None,
) -> dict[str, Split]:
    """Splits groups (patients) by the rank of a hash of seed and name.

    The result does not depend on the order of ``groups``. Groups in ``fixed`` keep their split;
    the others fill val and test up to their share in the order of their hash, so that no group
    that was trained on is ever validated on because cases were added.

    Args:
        groups: Names; repeated names count once.
        val_share: Share of the groups for validation, rounded; at least one group where it is
            above 0 and there are two or more groups.
        test_share: Share of the groups for testing, in the same way; at least one where there are
            three or more groups.
        seed: Another seed gives another split.
        fixed: Groups that have a split already; names that are not in ``groups`` are ignored.

    Returns:
        The split of every group. At least one group is left for training.

    Raises:
        UserError: The shares are out of range.
    """
    check_shares(val_share, test_share)
    names = set(groups)
    result = {name: split for name, split in (fixed or {}).items() if name in names}
    free = sorted(names - set(result), key=lambda name: _rank(seed, name))
    n_val = _target(val_share, len(names), at_least_from=2)
    n_test = _target(test_share, len(names), at_least_from=3)
    room = len(names) - 1  # one group always trains
    n_val = min(n_val, room)
    wanted: tuple[tuple[Split, int], ...] = (("val", n_val), ("test", min(n_test, room - n_val)))
    for split, target in wanted:
        missing = max(0, target - sum(held == split for held in result.values()))
        result.update(dict.fromkeys(free[:missing], split))
        free = free[missing:]
    result.update(dict.fromkeys(free, "train"))
    return result


def _rank(seed: int, name: str) -> str:
    return hashlib.sha256(os.fsencode(f"{seed}:{name}")).hexdigest()


def _target(share: float, count: int, *, at_least_from: int) -> int:
    if share == 0:
        return 0
    return max(round(share * count), 1 if count >= at_least_from else 0)


def read_split_file(
    path: Path, names: Iterable[str], aliases: Mapping[str, str] | None = None
) -> dict[str, Split]:
    """Reads which case belongs to which split.

    Args:
        path: JSON ``{"train": [names], "val": [names], "test": [names]}``, or CSV with the columns
            name and split. A name is a case's name or its image file's path below the input
            folder, with or without suffix.
        names: The cases that are to be split; each must be in the file.
        aliases: Other names of cases, such as those with a PatientID in clear.

    Returns:
        The split of every name in ``names``.

    Raises:
        UserError: The file cannot be read, names an unknown split or case, names a case twice, or
            leaves one out.
    """
    rows = _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path)
    known = set(names)
    result: dict[str, Split] = {}
    unknown = []
    for written, split in rows:
        if split not in SPLITS:
            raise UserError(f"{path}: unknown split {split!r}; use train, val or test")
        named = written if written in known else case_name(PurePath(written))
        name = (aliases or {}).get(named, named)
        if name not in known:
            unknown.append(written)
        elif result.setdefault(name, split) != split:
            raise UserError(f"{path}: {written} is in both {result[name]} and {split}")
    for problem, listed in (("names no case of the input", unknown), ("has no split for", None)):
        missing = sorted(known - set(result)) if listed is None else listed
        if missing:
            raise UserError(f"{path}: {problem}: {_listing(missing)}; correct the file")
    return result


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the split file cannot be read ({error})") from error


def _json_rows(path: Path) -> list[tuple[str, Any]]:
    try:
        loaded = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(loaded, dict) or not all(_is_names(value) for value in loaded.values()):
        raise UserError(f'{path}: must hold lists of case names: {{"train": [...], "val": [...]}}')
    return [(name, split) for split, names in loaded.items() for name in names]


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _csv_rows(path: Path) -> list[tuple[str, Any]]:
    rows = [row for row in csv.reader(_read_text(path).splitlines()) if any(row)]
    bad = [number for number, row in enumerate(rows, start=1) if len(row) != 2]
    if bad:
        raise UserError(f"{path}: row {bad[0]} must have two columns, name and split")
    cells = [(name.strip(), split.strip()) for name, split in rows]
    header = bool(cells) and cells[0][1].lower() == "split"
    return list(cells[1:] if header else cells)


@dataclass(frozen=True)
class SplitRule:
    """How cases are split.

    Attributes:
        val_share: See ``split_groups``.
        test_share: See ``split_groups``.
        seed: See ``split_groups``.
        file: File that gives the split instead; see ``read_split_file``.
        group: Pattern of the patient in a case's name, None where label files make the groups.
    """

    val_share: float
    test_share: float
    seed: int
    file: Path | None
    group: str | None

    def check(
        self, names: Iterable[str], aliases: Mapping[str, str] | None = None
    ) -> dict[str, Split]:
        """Checks the rule against the cases, before the work begins.

        Args:
            names: The cases.
            aliases: See ``read_split_file``.

        Returns:
            The split of each case where a file gives it; otherwise empty.

        Raises:
            UserError: Shares out of range, or the file is unusable.
        """
        check_shares(self.val_share, self.test_share)
        if self.file is None:
            return {}
        return read_split_file(self.file, names, aliases)

    def to_json(self) -> dict[str, Any]:
        """Returns what the manifest keeps; with a file, shares and seed play no part."""
        if self.file is not None:
            return {"file": self.file.name}
        return {
            "val_share": self.val_share,
            "test_share": self.test_share,
            "seed": self.seed,
            "group": self.group,
        }
