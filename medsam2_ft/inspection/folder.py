"""Finds the cases below a folder, with their splits, and measures them."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from medsam2_ft.errors import UserError
from medsam2_ft.inspection.facts import CaseFacts, read_facts

SPLITS = ("train", "val", "test")
_SPLITS_FILE = "splits.json"


@dataclass(frozen=True)
class CaseFile:
    """One npz file.

    Attributes:
        path: Where it lies.
        file: Path below the folder, with ``/``.
        split: ``train``, ``val`` or ``test``, where a folder of that name or a ``splits.json``
            says so.
    """

    path: Path
    file: str
    split: str | None


@dataclass(frozen=True)
class Unreadable:
    """A file that is no readable case.

    Attributes:
        file: See ``CaseFile``.
        split: See ``CaseFile``.
        reason: One line.
    """

    file: str
    split: str | None
    reason: str


def find_case_files(folder: Path, split: str | None = None) -> list[CaseFile]:
    """Lists the npz files below a folder, without hidden ones and parallel ``gts`` folders.

    Args:
        folder: Folder of cases, of a prepared data set, or of several data sets.
        split: Only cases of this split.

    Returns:
        Sorted by path.

    Raises:
        UserError: The folder is missing, or holds no case (of that split).
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder of npz cases")
    listed: dict[Path, dict[str, str]] = {}
    found = []
    for path in sorted(folder.rglob("*.npz")):
        relative = path.relative_to(folder)
        if path.parent.name == "gts" or any(part.startswith(".") for part in relative.parts):
            continue
        found.append(CaseFile(path, relative.as_posix(), _split_of(folder, relative, listed)))
    if not found:
        raise UserError(
            f"{folder}: holds no .npz case; make cases with `medsam2-ft prepare`, or give the "
            "folder that they lie in"
        )
    wanted = [case for case in found if split in (None, case.split)]
    if not wanted:
        raise UserError(
            f"{folder}: none of its {len(found)} cases is in the split {split}; leave --split out, "
            "or give a folder with the subfolders train, val and test"
        )
    return wanted


def _split_of(folder: Path, relative: Path, listed: dict[Path, dict[str, str]]) -> str | None:
    """By the innermost folder that is named like a split, else by ``splits.json``."""
    for part in reversed(relative.parent.parts):
        if part in SPLITS:
            return part
    if folder.name in SPLITS:
        return folder.name
    for parent in (folder / relative).parents:
        if parent not in listed:
            listed[parent] = _read_splits(parent / _SPLITS_FILE)
        if relative.stem in listed[parent]:
            return listed[parent][relative.stem]
        if parent == folder:
            break
    return None


def _read_splits(file: Path) -> dict[str, str]:
    """Split by case name; empty where there is no such file."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {
            str(name).removesuffix(".npz"): split for split in SPLITS for name in content[split]
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f'{file}: is not of the form {{"train": [names], "val": [names], "test": [names]}} '
            f"({error!r}); repair or remove it"
        ) from error


def measure_files(
    files: Sequence[CaseFile], workers: int, on_done: Callable[[], None]
) -> tuple[list[CaseFacts], list[Unreadable]]:
    """Measures every file; no more than ``workers`` cases are in memory at a time.

    Args:
        files: What to measure.
        workers: Number of threads.
        on_done: Called after each file.

    Returns:
        Facts and unreadable files, both in the order of ``files``.
    """
    facts, unreadable = {}, {}
    for case, result in _in_threads(files, workers):
        if isinstance(result, CaseFacts):
            facts[case.file] = result
        else:
            unreadable[case.file] = result
        on_done()
    order = [case.file for case in files]
    return (
        [facts[file] for file in order if file in facts],
        [unreadable[file] for file in order if file in unreadable],
    )


def _in_threads(
    files: Sequence[CaseFile], workers: int
) -> Iterator[tuple[CaseFile, CaseFacts | Unreadable]]:
    """Yields results as they come. Inflating, counting and hashing let other threads run."""
    with ThreadPoolExecutor(workers) as pool:
        queue = iter(files)
        pending: dict[Future[CaseFacts | Unreadable], CaseFile] = {}
        while True:
            for case in queue:
                pending[pool.submit(_measure, case)] = case
                if len(pending) >= workers:
                    break
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                yield pending.pop(future), future.result()


def _measure(case: CaseFile) -> CaseFacts | Unreadable:
    try:
        return read_facts(case.path, case.file, case.split)
    except UserError as error:
        return Unreadable(case.file, case.split, str(error))
    except MemoryError:
        return Unreadable(case.file, case.split, f"{case.path}: out of memory; use fewer --workers")
