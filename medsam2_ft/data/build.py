"""Builds cases of the slice store in worker processes, one case each."""

import hashlib
import multiprocessing
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medsam2_ft.data.case_arrays import write_case_arrays
from medsam2_ft.errors import UserError
from medsam2_ft.io.npz import read_case
from medsam2_ft.stop_signals import ignore_stop_signals, raise_if_received

# Part of every case's key: a change of what is stored builds all cases anew.
FORMAT_VERSION = "3"
# About what one process stores in the time that starting another one takes.
BYTES_PER_WORKER = 16 * 2**20


@dataclass(frozen=True)
class SourceState:
    """What a case was built from.

    Attributes:
        stat: Size in bytes and modification time in ns of each file that makes up the case.
        folder: Name of the case's folder, which holds a part of the sha256 of those files.
        version: ``FORMAT_VERSION`` of the program that built it.
    """

    stat: list[list[int]]
    folder: str
    version: str


def source_files(path: Path) -> list[Path]:
    """Returns the files that make up a case: the npz, and its labels in a parallel ``gts``."""
    beside = path.parent.parent if path.parent.name == "imgs" else path.parent
    labels = beside / "gts" / path.name
    return [path, labels] if labels.is_file() else [path]


def source_stat(path: Path) -> list[list[int]]:
    """Returns size and modification time of the files of a case.

    Raises:
        UserError: If the file is not there.
    """
    try:
        return [[s.st_size, s.st_mtime_ns] for s in (file.stat() for file in source_files(path))]
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror}); restore the file.")


def build_cases(
    paths: Sequence[Path], cases_dir: Path, workers: int, console: Console
) -> Iterator[tuple[Path, SourceState | UserError]]:
    """Stores cases and yields each when it is done, in any order, the broken ones too.

    Args:
        paths: The npz files.
        cases_dir: Where the case folders go.
        workers: Most processes to start; little work is done in this process.
        console: Where the progress bar goes.

    Yields:
        The file, and what it was built from or why it could not be.

    Raises:
        UserError: If a worker is killed.
        Stopped: This process was told to stop; what is stored stays.
    """
    if not paths:
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("Storing cases", total=len(paths))
        for outcome in _outcomes(paths, cases_dir, _useful_workers(paths, workers)):
            progress.advance(task)
            yield outcome
            raise_if_received()


def _useful_workers(paths: Sequence[Path], workers: int) -> int:
    """Starting a process takes seconds, which small data sets do not repay."""
    files = [file for path in paths for file in source_files(path)]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return max(1, min(workers, len(paths), size // BYTES_PER_WORKER))


def _outcomes(
    paths: Sequence[Path], cases_dir: Path, workers: int
) -> Iterator[tuple[Path, SourceState | UserError]]:
    if workers == 1:
        for path in paths:
            yield path, build_case(path, cases_dir)
        return
    # Spawned, not forked: the training process holds threads (torch, blosc2) by now.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_set_up_worker) as pool:
        futures: dict[Future[SourceState | UserError], Path] = {
            pool.submit(build_case, path, cases_dir): path for path in paths
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise_if_received()  # the signal went to all processes of the group
            raise UserError(
                f"{cases_dir}: a process that stored a case was killed, probably for want of "
                "memory; start again (finished cases are kept) with fewer processes."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _set_up_worker() -> None:
    """Ends this worker with its parent, for it would wait for work for ever, and not before."""
    ignore_stop_signals()
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def build_case(path: Path, cases_dir: Path) -> SourceState | UserError:
    """Stores one case unless its bytes are stored already.

    Args:
        path: The npz file.
        cases_dir: Where the case folder goes.

    Returns:
        What it was built from; a broken file is returned, not raised, so that the others go on.
    """
    temporary = cases_dir / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        stat = source_stat(path)
        folder = cases_dir / _case_key(path)
        if not folder.is_dir():
            temporary.mkdir()
            write_case_arrays(read_case(path), temporary)
            _flush(temporary)
            temporary.rename(folder)
        return SourceState(stat, folder.name, FORMAT_VERSION)
    except UserError as error:
        return error
    except OSError as error:
        return UserError(
            f"{path}: cannot be stored in {cases_dir} ({error.strerror}); "
            "make room or choose another store_dir."
        )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _case_key(path: Path) -> str:
    """Returns the name of a case's folder, made from the bytes of its files.

    Raises:
        UserError: If a file cannot be read.
    """
    digest = hashlib.sha256(FORMAT_VERSION.encode())
    for file in source_files(path):
        try:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise _unreadable(file, error) from error
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', path.stem)[:60]}-{digest.hexdigest()[:16]}"


def _flush(folder: Path) -> None:
    """Writes the files through to the disk, so that a rename after it never names half a case."""
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
