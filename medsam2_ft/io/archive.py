"""Unpacks a zip archive into a temporary folder, after looking at what it declares.

An archive that lies is refused: sizes beyond the limit or out of proportion to the file, entries
that share their bytes, more bytes than declared, paths that lead out of the folder, links.
Archives within the archive stay packed.
"""

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from medsam2_ft.errors import UserError
from medsam2_ft.io.npz_zip import MAX_VOXELS_VARIABLE, max_voxels

_MAX_FILES = 100_000
_MAX_DEPTH = 32
_BYTES_PER_VALUE = 2
_MODEST_BYTES = 1 << 28
_LARGEST_RATIO = 200
_CHUNK_BYTES = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BESIDE_THE_DATA = "__MACOSX"
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    MemoryError,
)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Unpacks an archive; the folder goes when the context ends.

    Yields:
        A temporary folder with the archive's files.

    Raises:
        UserError: Missing, damaged, encrypted, more than 100,000 files, beyond the size limit,
            out of proportion to its own size, or with a path or link that leads elsewhere. What is
            said of its files within the context names the archive instead of the folder.
    """
    path = Path(path)
    with _damaged_as_user_error(path):
        size = path.stat().st_size
        archive = zipfile.ZipFile(path)
    with archive, tempfile.TemporaryDirectory(prefix="medsam2-ft-") as name:
        folder = Path(name)
        with _damaged_as_user_error(path):
            entries = [entry for entry in archive.infolist() if not _is_passed_over(entry)]
            _check_sizes(path, entries, size, folder)
            targets = _targets(path, entries)
            for entry, target in zip(entries, targets, strict=True):
                _unpack(path, archive, entry, folder / target)
        try:
            yield folder
        except UserError as error:
            told = str(error).replace(name, str(path))
            raise UserError(told) from (error.__cause__ or error)


@contextmanager
def _damaged_as_user_error(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"{path}: cannot be unpacked ({reason}); it is missing, truncated, damaged or no zip "
            "archive: copy it again"
        ) from error


def _is_passed_over(entry: zipfile.ZipInfo) -> bool:
    return entry.is_dir() or entry.filename.startswith(f"{_BESIDE_THE_DATA}/")


def _check_sizes(path: Path, entries: Sequence[zipfile.ZipInfo], size: int, folder: Path) -> None:
    """Looks at what the directory of the archive declares."""
    if len(entries) > _MAX_FILES:
        raise UserError(f"{path}: holds {len(entries)} files; unpack it and give a folder of it")
    declared = sum(entry.file_size for entry in entries)
    if sum(entry.compress_size for entry in entries) > size:
        raise UserError(
            f"{path}: its files share their bytes, as in a zip bomb; it is no genuine archive: "
            "leave it out"
        )
    limit = max_voxels() * _BYTES_PER_VALUE
    if declared > limit:
        raise UserError(
            f"{path}: unpacks to {declared} bytes, above the limit of {limit}; if it is genuine, "
            f"unpack it yourself or set the environment variable {MAX_VOXELS_VARIABLE} higher"
        )
    if declared > max(_MODEST_BYTES, _LARGEST_RATIO * size):
        raise UserError(
            f"{path}: unpacks to {declared} bytes from {size}, as a zip bomb does; if it is "
            "genuine, unpack it yourself and give the folder"
        )
    if declared > shutil.disk_usage(folder).free:
        raise UserError(
            f"{path}: unpacks to {declared} bytes, more than is free in {folder.parent}; set "
            "TMPDIR to a larger disk"
        )


def _targets(path: Path, entries: Sequence[zipfile.ZipInfo]) -> list[Path]:
    """Where each entry goes, relative to the folder."""
    targets = []
    for entry in entries:
        _check_entry(path, entry)
        parts = PurePosixPath(entry.filename).parts
        leads_out = ".." in parts or PurePosixPath(entry.filename).is_absolute()
        windows = PureWindowsPath(entry.filename)
        if leads_out or windows.drive or windows.root or "\\" in entry.filename or not parts:
            raise UserError(
                f"{path}: the path {entry.filename!r} leads out of the archive; it is no genuine "
                "archive: leave it out"
            )
        if len(parts) > _MAX_DEPTH:
            raise UserError(f"{path}: folders are more than {_MAX_DEPTH} deep; unpack it yourself")
        targets.append(Path(*parts))
    if len(set(targets)) < len(targets):
        raise UserError(f"{path}: two files have the same path; unpack it yourself")
    return targets


def _check_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    if entry.flag_bits & 1:
        raise UserError(f"{path}: is encrypted; unpack it with its password and give the folder")
    if entry.compress_type not in _METHODS:
        raise UserError(
            f"{path}: is compressed with neither none nor deflate; unpack it and give the folder"
        )
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise UserError(
            f"{path}: {entry.filename!r} is a link or a device; unpack it yourself and give the "
            "folder"
        )


def _unpack(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    """Writes one file, counting its bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(entry) as source, target.open("xb") as sink:
        while piece := source.read(_CHUNK_BYTES):
            written += len(piece)
            if written > entry.file_size:
                raise UserError(
                    f"{path}: {entry.filename!r} is larger than declared; it is no genuine "
                    "archive: leave it out"
                )
            sink.write(piece)
    if written < entry.file_size:
        raise UserError(f"{path}: {entry.filename!r} is incomplete; copy the archive again")
