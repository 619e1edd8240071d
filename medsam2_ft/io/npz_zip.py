"""The container of an npz file: read with bounds, written with deterministic bytes.

``numpy.load`` decompresses whatever a file declares. Here the declared shape and type of every
array are looked at first, against a limit, and nothing is ever unpickled.
"""

import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from isal import isal_zlib
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import atomic_path

DEFAULT_MAX_VOXELS = 2**31
MAX_VOXELS_VARIABLE = "MEDSAM2FT_MAX_VOXELS"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENTRY_DATE = (1980, 1, 1, 0, 0, 0)
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,  # numpy tokenizes headers that it cannot evaluate
    ValueError,
    OverflowError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,  # zipfile: encrypted entry
    RecursionError,
    OSError,
)


@dataclass(frozen=True)
class ArrayHeader:
    """What a file says about one of its arrays, known without decompressing it.

    Attributes:
        shape: Extent of every axis.
        dtype: Type of the elements.
        compressed_bytes: Size in the file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    compressed_bytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def max_voxels() -> int:
    """Returns the most elements that one array of an input file may have.

    2**31 (a colour volume of 680 slices at 1024 x 1024), or the value of the environment variable
    ``MEDSAM2FT_MAX_VOXELS``.

    Raises:
        UserError: The variable is not a positive integer.
    """
    text = os.environ.get(MAX_VOXELS_VARIABLE, "")
    if not text:
        return DEFAULT_MAX_VOXELS
    if not text.isdecimal() or int(text) < 1:
        raise UserError(
            f"{MAX_VOXELS_VARIABLE}={text!r} is not a positive integer; correct or unset it"
        )
    return int(text)


def check_size(where: str, elements: int) -> None:
    """Refuses arrays beyond the limit, before memory is taken for them.

    Raises:
        UserError: More than ``max_voxels()`` elements.
    """
    if elements > max_voxels():
        raise UserError(
            f"{where}: declares {elements} values, above the limit of {max_voxels()}; if the file "
            f"is genuine, set the environment variable {MAX_VOXELS_VARIABLE} higher"
        )


class NpzReader:
    """Arrays of one open npz file, each read when asked for. Made by ``open_npz``."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        self._entries = {
            entry.filename.removesuffix(".npy"): entry
            for entry in archive.infolist()
            if entry.filename.endswith(".npy")
        }

    def __contains__(self, key: str) -> bool:
        """Whether the file holds an array of that name."""
        return key in self._entries

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays, in the order of the file."""
        return tuple(self._entries)

    def header(self, key: str) -> ArrayHeader:
        """Shape and type of one array; decompresses no more than its header.

        Raises:
            UserError: The entry is damaged, or a pickled object array.
            KeyError: No such array.
        """
        with self._open(key) as stream:
            return self._read_header(key, stream)

    def read(self, key: str) -> NDArray[Any]:
        """One array, C-contiguous, in the machine's byte order.

        Raises:
            UserError: The entry is damaged, a pickled object array, or beyond the limit.
            KeyError: No such array.
        """
        with self._open(key) as stream:
            header = self._read_header(key, stream)
        check_size(f"{self.path}: {key}", header.size)
        with self._open(key) as stream:
            # takes the entry to its end (_read_header compared the sizes), where zipfile
            # verifies the checksum
            array = npy_format.read_array(stream, allow_pickle=False)
        native = array.dtype.newbyteorder("=")
        return np.ascontiguousarray(array, dtype=native).reshape(header.shape)

    @contextmanager
    def _open(self, key: str) -> Iterator[zipfile.ZipExtFile]:
        entry = self._entries[key]
        try:
            if entry.compress_type not in _METHODS:
                raise ValueError("its compression is neither none nor deflate")
            with self._archive.open(entry) as stream:
                yield cast(zipfile.ZipExtFile, stream)
        except UserError:
            raise
        except _DAMAGED as error:
            raise _damaged(self.path, f"array {key!r}", error) from error

    def _read_header(self, key: str, stream: zipfile.ZipExtFile) -> ArrayHeader:
        version = npy_format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = npy_format.read_array_header_1_0(stream)
        else:
            shape, _, dtype = npy_format.read_array_header_2_0(stream)
        if dtype.hasobject:
            raise UserError(
                f"{self.path}: {key!r} is a pickled object array, which can run code when it is "
                "loaded; save it again as a plain array"
            )
        entry = self._entries[key]
        declared = math.prod(shape) * dtype.itemsize + stream.tell()
        if min(shape, default=0) < 0 or entry.file_size != declared:
            raise ValueError(f"{entry.file_size} bytes do not make up shape {shape}")
        return ArrayHeader(tuple(int(n) for n in shape), dtype, entry.compress_size)


@contextmanager
def open_npz(path: Path) -> Iterator[NpzReader]:
    """Opens an npz file for reading.

    Raises:
        UserError: The file is missing, unreadable, empty, truncated, or not an npz file.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise _damaged(path, "file", error) from error
    with archive:
        yield NpzReader(path, archive)


def _damaged(path: Path, what: str, error: BaseException) -> UserError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return UserError(
        f"{path}: {what} cannot be read ({reason}); the file is truncated, damaged or not npz: "
        "copy or prepare it again"
    )


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes a compressed npz file, atomically; equal arrays give equal bytes.

    ``numpy.savez_compressed`` stores the time of day with every entry; here the date is fixed.
    The arrays are deflated piece by piece, without a copy of a whole one. On another kind of
    processor the same arrays may give other bytes, for ISA-L chooses its code by the processor.

    Raises:
        UserError: The file cannot be written.
        ValueError: An object array.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(f"{key}.npy", date_time=_ENTRY_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w", force_zip64=True) as stream:
                # ISA-L's deflate is 8 to 20 times as fast as zlib's level 6 and its files are 2 to
                # 5 % larger. zipfile has no public way to choose it; were the attribute renamed,
                # zlib would write the file.
                stream._compressor = isal_zlib.compressobj(  # type: ignore[attr-defined]
                    isal_zlib.ISAL_DEFAULT_COMPRESSION, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS
                )
                npy_format.write_array(stream, np.asanyarray(array), allow_pickle=False)
