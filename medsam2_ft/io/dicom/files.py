"""Opens DICOM files with pydicom so that a damaged one ends in one known error.

pydicom raises whatever a bad value leads to, and quotes values (which may name a patient) in its
warnings, log and errors. Here every call to it stands within ``damaged_as_user_error``: warnings
and log are dropped, and the error names the file and nothing that stands in it.
"""

import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medsam2_ft.errors import UserError
from medsam2_ft.io.signatures import is_dicom

try:
    from pydicom import config, dcmread
    from pydicom.dataset import Dataset
    from pydicom.errors import BytesLengthException, InvalidDicomError
    from pydicom.filereader import read_dataset
    from pydicom.tag import Tag
    from pydicom.uid import UID, DeflatedExplicitVRLittleEndian
except ImportError as error:
    raise UserError(
        "DICOM files need pydicom, which is not installed; run: pip install 'medsam2-ft[dicom]'"
    ) from error

_pydicom_log = logging.getLogger("pydicom")
_pydicom_log.addHandler(logging.NullHandler())  # else Python's handler of last resort prints

AnyTag = str | int
_INFLATED_LIMIT = 1 << 28  # a deflated file may grow to 256 MB, however small it is
_INFLATED_RATIO = 100  # and beyond that to a hundred times its size
_PREAMBLE_BYTES = 132
_CHUNK_BYTES = 1 << 20
_DAMAGED = (
    InvalidDicomError,
    BytesLengthException,
    struct.error,
    zlib.error,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    OSError,
)


@contextmanager
def damaged_as_user_error(path: Path, what: str = "file") -> Iterator[None]:
    """Turns every way in which pydicom fails on a bad file into a UserError.

    Raises:
        UserError: Anything of ``_DAMAGED`` was raised within.
    """
    propagates = _pydicom_log.propagate
    try:
        _pydicom_log.propagate = False
        with config.disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except _DAMAGED as error:
        raise UserError(
            f"{path}: the {what} cannot be read ({_reason(error)}); it is missing, truncated, "
            "damaged or not DICOM: copy it again"
        ) from error
    finally:
        _pydicom_log.propagate = propagates


def _reason(error: BaseException) -> str:
    """What happened, without the file's own values."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, InvalidDicomError):
        return "no DICOM header"
    return type(error).__name__


def open_dataset(
    path: Path, tags: Sequence[AnyTag] | None = None, with_pixels: bool = False
) -> Dataset:
    """Parses a file; with ``tags``, only these elements of it, and no pixel data unless asked for.

    A file without the 128 bytes in front and ``DICM`` is tried all the same.

    Raises:
        UserError: Missing, damaged, no DICOM, or deflated to much more than a file of its size.
    """
    with damaged_as_user_error(path):
        has_preamble = is_dicom(path)
        if has_preamble:
            _check_deflated(path)
        dataset = dcmread(
            path,
            force=not has_preamble and path.is_file(),
            stop_before_pixels=not with_pixels,
            specific_tags=None if tags is None else [Tag(tag) for tag in tags],
        )
        if "SOPClassUID" not in dataset and "Rows" not in dataset:
            raise InvalidDicomError
        return dataset


def _check_deflated(path: Path) -> None:
    """Inflates a file of the deflated transfer syntax once, in pieces, to know its size.

    Raises:
        UserError: It grows beyond the limit.
    """
    with path.open("rb") as stream:
        stream.seek(_PREAMBLE_BYTES)
        # explicit, little endian; stops before the data set, where a deflated one begins
        meta = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group != 2)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        limit = max(_INFLATED_LIMIT, _INFLATED_RATIO * path.stat().st_size)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        grown = 0
        piece = stream.read(_CHUNK_BYTES)
        while piece and not inflater.eof:
            grown += len(inflater.decompress(piece, _CHUNK_BYTES))
            if grown > limit:
                raise UserError(
                    f"{path}: inflates to more than {limit >> 20} MB, far beyond its own size; it "
                    "is no genuine file: leave it out"
                )
            piece = inflater.unconsumed_tail or stream.read(_CHUNK_BYTES)


def transfer_syntax(dataset: Dataset) -> UID:
    """Returns how the pixel data is encoded; implicit little endian where nothing says so."""
    meta = getattr(dataset, "file_meta", None)
    uid = None if meta is None else meta.get("TransferSyntaxUID")
    if uid:
        return UID(uid)
    implicit, little = dataset.original_encoding
    if implicit or little is None:
        return UID("1.2.840.10008.1.2")
    return UID("1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2")


def numbers(dataset: Dataset, keyword: AnyTag, count: int) -> tuple[float, ...] | None:
    """Returns ``count`` finite numbers, None where the element is missing or empty.

    Raises:
        ValueError: Another count, not a number, or not finite.
    """
    value = _value(dataset, keyword)
    if value is None:
        return None
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        value = (value,)
    found = tuple(float(number) for number in value)
    if not found:
        return None
    if len(found) != count or not all(math.isfinite(number) for number in found):
        raise ValueError(f"{keyword} is not {count} finite numbers")
    return found


def number(dataset: Dataset, keyword: AnyTag) -> float | None:
    """Returns the first of an element's numbers, None where it is missing, empty or not finite."""
    value = _value(dataset, keyword)
    if value is not None and not isinstance(value, str | bytes) and hasattr(value, "__iter__"):
        value = next(iter(value), None)
    if value is None:
        return None
    found = float(value)
    return found if math.isfinite(found) else None


def integer(dataset: Dataset, keyword: AnyTag, default: int) -> int:
    """Returns an element's integer, ``default`` where it is missing or empty."""
    found = number(dataset, keyword)
    return default if found is None else int(found)


def text(dataset: Dataset, keyword: AnyTag) -> str:
    """Returns an element's text without surrounding blanks, "" where it is missing or empty."""
    value = _value(dataset, keyword)
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip(" \0")
    if hasattr(value, "__iter__") and not isinstance(value, bytes):
        return "\\".join(str(part).strip() for part in value)
    return str(value).strip()


def items(dataset: Dataset, keyword: AnyTag) -> Sequence[Dataset]:
    """Returns the items of a sequence, none where it is missing.

    Raises:
        TypeError: The element is no sequence.
    """
    value = _value(dataset, keyword)
    if value is None:
        return ()
    if not all(isinstance(item, Dataset) for item in value):
        raise TypeError(f"{keyword} is not a sequence")
    return tuple(value)


def _value(dataset: Dataset, keyword: AnyTag) -> Any:
    if isinstance(keyword, int):
        value = dataset[keyword].value if keyword in dataset else None
    else:
        value = dataset.get(keyword)
    return None if value is None or value == "" or value == b"" else value
