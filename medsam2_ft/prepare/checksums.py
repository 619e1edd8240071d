"""sha256 of the files that a case is made from."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePath

from medsam2_ft.errors import UserError
from medsam2_ft.io import ITK_SUFFIXES
from medsam2_ft.io.atomic import file_suffix
from medsam2_ft.io.detached import data_files
from medsam2_ft.prepare.pairing import Pair
from medsam2_ft.prepare.sources import SourceFile


def sha256_of(path: Path) -> str:
    """Returns the checksum of a file, read in pieces.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def source_checksums(pair: Pair) -> dict[str, str]:
    """Returns sha256 by relative path for every file that the case is made from.

    Args:
        pair: Image and label. The label's path is prefixed with ``labels:``, because it may equal
            the image's. The files of a series, of a video or of parts have one checksum together.

    Raises:
        UserError: A file is missing or cannot be read.
    """
    checksums = {}
    for prefix, file in (("", pair.image), ("labels:", pair.label)):
        if file is None:
            continue
        if file.source.files:
            key = prefix + pair.veil.path(file.relative).as_posix()
            checksums[key] = _together(file)
            continue
        for path in _parts(file, with_labels=not prefix and pair.label is None):
            relative = PurePath(file.relative.parent / _relative(path, file))
            checksums[prefix + pair.veil.path(relative).as_posix()] = _checked(path)
    return checksums


def _together(file: SourceFile) -> str:
    """One checksum for the files of a source: a series has hundreds, whose names may identify."""
    source = file.source
    digests = [_checked(path) for path in source.files]
    if source.kind == "series":
        lines = sorted(digests)  # neither their order nor their names matter
    else:
        names = source.names or [path.name for path in source.files]
        lines = [f"{digest} {name}" for digest, name in zip(digests, names, strict=True)]
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def _checked(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _relative(path: Path, file: SourceFile) -> Path:
    parent = file.path.parent
    return path.relative_to(parent) if path.is_relative_to(parent) else Path("..", path.name)


def _parts(file: SourceFile, *, with_labels: bool) -> Iterable[Path]:
    """The file, the data files of a detached header, and the label file beside an npz."""
    yield file.path
    suffix = file_suffix(file.path)
    if suffix in (*ITK_SUFFIXES, ".seg.nrrd"):
        yield from data_files(file.path)
    elif suffix == ".npz" and with_labels:
        from medsam2_ft.io.npz import case_header

        beside = case_header(file.path).labels_path
        if beside is not None and beside != file.path:
            yield beside
