"""The output folder: what lies in it, who may write to it, and where finished cases go."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.checksums import sha256_of
from medsam2_ft.prepare.manifest import WORK, Record
from medsam2_ft.prepare.splits import SPLITS


@contextmanager
def locked(out: Path) -> Iterator[Path]:
    """Creates the output folder and keeps other processes from preparing into it.

    Args:
        out: Output folder.

    Yields:
        The hidden working folder below it, in which finished cases wait for their split. It is
        removed on leaving only if it holds nothing but the lock.

    Raises:
        UserError: The folder cannot be written, or another process is at work in it.
    """
    work = out / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        stream = (work / "lock").open("w")
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); give another output folder"
        ) from error
    with stream:
        if not _lock(stream.fileno()):
            raise UserError(f"{out}: another prepare is at work in this folder; wait for its end")
        try:
            yield work
        finally:
            if [path.name for path in work.iterdir()] == ["lock"]:
                shutil.rmtree(work, ignore_errors=True)
                with suppress(OSError):
                    out.rmdir()  # only where it is empty


def _lock(descriptor: int) -> bool:
    """Takes the lock, which ends with the process; True also where the system has no such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems know no locks
        return True
    return True


def staged_path(out: Path, name: str) -> Path:
    """Returns where a finished case waits until the split is made."""
    return out / WORK / f"{name}.npz"


def case_path(out: Path, split: str, name: str) -> Path:
    """Returns where a case lies in the end."""
    return out / split / f"{name}.npz"


def locate(out: Path, record: Record) -> Path | None:
    """Finds the file of a written case by its checksum.

    An interrupted run may have left it in the working folder or in another split.

    Returns:
        The file, or None where it is missing or damaged.
    """
    places = [staged_path(out, record.name)]
    places += [case_path(out, split, record.name) for split in _first(record.split)]
    for path in places:
        if path.is_file() and sha256_of(path) == record.sha256:
            return path
    return None


def _first(split: str) -> list[str]:
    return sorted(SPLITS, key=lambda name: name != split)


def check_own(out: Path, known: Iterable[str]) -> None:
    """Makes sure that the split folders hold nothing but cases that prepare wrote.

    Raises:
        UserError: There is an npz file that no manifest knows; training would read it.
    """
    names = set(known)
    for split in SPLITS:
        for path in sorted((out / split).glob("*.npz")):
            if path.stem not in names and not path.name.startswith("."):
                raise UserError(
                    f"{path}: was not written by this command, but training would read it; remove "
                    "it, restore its manifest.json, or give another output folder"
                )


def place(out: Path, files: Mapping[str, Path], split_of: Mapping[str, str]) -> None:
    """Moves every case to its split and removes what is left of earlier splits.

    Args:
        out: Output folder.
        files: Where each written case lies now.
        split_of: The split of each.

    Raises:
        UserError: A file cannot be moved.
    """
    for name, source in files.items():
        target = case_path(out, split_of[name], name)
        try:
            if source != target:
                target.parent.mkdir(exist_ok=True)
                source.replace(target)
            remove(out, name, keep=target)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror})") from error


def remove(out: Path, name: str, keep: Path | None = None) -> None:
    """Removes the files of a case from all splits, except ``keep``."""
    for split in SPLITS:
        path = case_path(out, split, name)
        if path != keep:
            path.unlink(missing_ok=True)


def tidy(out: Path) -> None:
    """Removes the working folder and empty split folders."""
    for path in (out / WORK).iterdir():
        if path.name != "lock":
            with suppress(OSError):
                path.unlink()
    for split in SPLITS:
        with suppress(OSError):  # it holds cases
            (out / split).rmdir()
