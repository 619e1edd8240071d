"""Files appear whole or not at all: a temporary file beside the target, fsync, rename.

The temporary file lies in the target's own folder, because a rename is atomic only within one
file system. It starts with a dot and keeps the target's suffixes, since writers choose the format
by suffix.
"""

import errno
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from medsam2_ft.errors import UserError

COMPOUND_SUFFIXES = (".nii.gz", ".seg.nrrd")
_TEMPORARY = re.compile(r"\..*\.tmp-\d+-[0-9a-f]{8}(\..*)?", re.DOTALL)
_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})


def file_suffix(path: Path) -> str:
    """Returns the suffix that names the format, ``.nii.gz`` and ``.seg.nrrd`` as one."""
    name = path.name.lower()
    for suffix in COMPOUND_SUFFIXES:
        if name.endswith(suffix):
            return suffix
    return path.suffix.lower()


def file_stem(path: Path) -> str:
    """Returns the file name without ``file_suffix``."""
    return path.name[: len(path.name) - len(file_suffix(path))]


def temporary_beside(target: Path) -> Path:
    """Returns a fresh hidden name in the target's folder: ``.x.tmp-<pid>-<random>.nii.gz``."""
    stem = os.fsencode(file_stem(target))[:120].decode(errors="ignore")
    return target.with_name(
        f".{stem}.tmp-{os.getpid()}-{secrets.token_hex(4)}{file_suffix(target)}"
    )


def write_failure(target: Path, error: OSError) -> UserError:
    """Turns a failed write into the line that the user reads."""
    reason = error.strerror or str(error)
    return UserError(
        f"{target}: cannot be written ({reason}); "
        f"check that the folder {target.parent} exists, is writable and has room"
    )


def sync_and_replace(temporary: Path, target: Path) -> None:
    """Makes ``temporary`` durable and renames it to ``target``, both in one file system.

    Raises:
        OSError: The file or the folder has vanished or the rename is refused.
    """
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(target)
    with suppress(OSError):  # some network file systems refuse to sync a folder
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_temporaries(folder: Path) -> None:
    """Removes what killed writers left in a folder; nobody may be writing there now."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yields the path to write to; on success that file becomes ``target`` in one step.

    Whatever happens inside, ``target`` is either its old or its complete new content, and the
    temporary file is gone afterwards (unless the process is killed: then a hidden file
    ``.*.tmp-*`` remains beside the target).

    Args:
        target: File to create or replace; its folder must exist.

    Yields:
        An empty file in the same folder with the same suffixes.

    Raises:
        UserError: The folder is missing or not writable, the target is a folder, or the disk is
            full.
    """
    target = Path(target)
    if target.is_dir():
        raise UserError(f"{target}: is a folder, not a file; give the name of a file to write")
    temporary = temporary_beside(target)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise write_failure(target, error) from error
    try:
        yield temporary
        try:
            sync_and_replace(temporary, target)
        except OSError as error:
            raise write_failure(target, error) from error
    except OSError as error:
        if error.errno in _DISK_ERRNOS or str(error.filename) == str(temporary):
            raise write_failure(target, error) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, atomically.

    Raises:
        UserError: As for ``atomic_path``.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, obj: Any) -> None:
    """Writes ``obj`` as indented JSON, atomically.

    NaN and infinities (undefined metrics) become ``null``, for JSON has no such numbers; numpy
    scalars and arrays become numbers and lists; paths and mapping keys become strings.

    Raises:
        UserError: As for ``atomic_path``.
        TypeError: ``obj`` holds something that has no JSON form.
    """
    text = json.dumps(_plain(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # what is no UTF-8 (names of old files) is left in texts only, and gets JSON's own escapes
    write_text(path, text.encode("utf-8", "backslashreplace").decode())


def _plain(obj: Any) -> Any:
    if isinstance(obj, np.generic | np.ndarray):
        return _plain(obj.tolist())
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    if isinstance(obj, Path):
        return str(obj)
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    return obj


def make_folder(folder: Path) -> Path:
    """Creates a folder with its parents; one that exists is fine.

    Returns:
        ``folder`` itself.

    Raises:
        UserError: It cannot be created, or a file has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: the folder cannot be created ({error.strerror or error}); give another"
            " one or make it writable"
        ) from error
    return folder
