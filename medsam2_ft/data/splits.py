"""Which cases train, which validate, which test."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from medsam2_ft.errors import UserError
from medsam2_ft.io.npz import find_cases
from medsam2_ft.prepare.leakage import families
from medsam2_ft.prepare.manifest import MANIFEST, read_manifest
from medsam2_ft.prepare.splits import split_groups

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SPLITS_FILE = "splits.json"


def find_splits(
    data_dir: Path, *, val_share: float, test_share: float, seed: int
) -> dict[Split, list[Path]]:
    """Finds the cases of a data folder and assigns each to a split.

    In this order: subfolders ``train``, ``val``, ``test``; a file ``splits.json`` (split -> names);
    a draw by case with ``seed``. Where there is ``train`` but no ``val`` (or ``test``), cases of
    ``train`` are drawn for it; those of one patient, or with the same image, stay together where
    the folder's manifest says so.

    Args:
        data_dir: The data folder.
        val_share: Share of cases drawn for validation.
        test_share: Share of cases drawn for testing.
        seed: Seed of the draw.

    Returns:
        Sorted paths of each split; a split may be empty.

    Raises:
        UserError: If the folder is missing or holds no case, if ``splits.json`` is unusable.
    """
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such folder; set data.data_dir to a folder of npz cases.")
    folders = [split for split in SPLITS if (data_dir / split).is_dir()]
    if folders:
        found: dict[Split, list[Path]] = {split: find_cases(data_dir / split) for split in folders}
        drawn = _draw(
            found.get("train", []),
            _patients(data_dir),
            val_share=0.0 if "val" in found else val_share,
            test_share=0.0 if "test" in found else test_share,
            seed=seed,
        )
        return drawn | {split: paths for split, paths in found.items() if split != "train"}
    if (data_dir / SPLITS_FILE).is_file():
        return _listed(data_dir / SPLITS_FILE, find_cases(data_dir))
    return _draw(find_cases(data_dir), {}, val_share=val_share, test_share=test_share, seed=seed)


def _patients(data_dir: Path) -> dict[str, str]:
    """Which cases of a prepared folder stay together, by name; empty without a manifest."""
    if not (data_dir / MANIFEST).is_file():
        return {}
    return families(read_manifest(data_dir).records.values())


def _draw(
    paths: Sequence[Path],
    patients: Mapping[str, str],
    *,
    val_share: float,
    test_share: float,
    seed: int,
) -> dict[Split, list[Path]]:
    groups = {path: patients.get(path.stem, path.stem) for path in paths}
    drawn = split_groups(groups.values(), val_share=val_share, test_share=test_share, seed=seed)
    return {split: [path for path in paths if drawn[groups[path]] == split] for split in SPLITS}


def _listed(file: Path, paths: Sequence[Path]) -> dict[Split, list[Path]]:
    by_name = {path.stem: path for path in paths}
    listed = _read_splits(file)
    seen: dict[str, str] = {}
    for split, names in listed.items():
        for name in names:
            if name in seen:
                raise UserError(
                    f"{file}: case {name!r} is in {seen[name]} and in {split}; keep one."
                )
            if name not in by_name:
                raise UserError(
                    f"{file}: names the case {name!r}, but {file.parent} holds no {name}.npz; "
                    "restore the file or take the name out."
                )
            seen[name] = split
    return {split: sorted(by_name[name] for name in listed[split]) for split in SPLITS}


def _read_splits(file: Path) -> dict[Split, list[str]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        lists = {split: content.get(split, []) for split in SPLITS}
        unknown = sorted(set(content) - set(SPLITS))
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f'{file}: is not of the form {{"train": [names], "val": [names], "test": [names]}} '
            f"({error}); repair or remove it."
        ) from error
    if unknown:
        raise UserError(f"{file}: unknown split {unknown[0]!r}; use train, val and test.")
    for split, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{file}: {split!r} must be a list of case names; repair the file.")
    return {split: [name.removesuffix(".npz") for name in names] for split, names in lists.items()}
