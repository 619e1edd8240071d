"""Which data files a NRRD or MetaImage header names; they are checked before ITK opens them.

A header may name any file of the system, a device that never ends, or a pattern that ITK hands to
C's printf. Only files beside the header, and in folders below it, are let through.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from medsam2_ft.errors import UserError

_NRRD_SUFFIXES = (".nrrd", ".nhdr")
_NRRD_FIELD = re.compile(rb"(?im)^data ?file[ \t]*:(?!=)[ \t]*([^\r\n]+)")
# anywhere in a line: MetaImage goes by words
_META_FIELD = re.compile(rb"ElementDataFile\s*[:=]\s*([^\r\n]+)")
_NRRD_END = re.compile(rb"\n\r?\n|\r\r")
_NUMBER = re.compile(r"%0?[0-9]{0,2}[di]")
_MAX_HEADER_BYTES = 1 << 22


def data_files(header: Path) -> tuple[Path, ...]:
    """Returns the files that hold the values of a header, other than the header's own file.

    Args:
        header: A NRRD or MetaImage file.

    Returns:
        The files in their order; none where the values follow the header. Numbered files are all
        that fit their pattern.

    Raises:
        UserError: The header cannot be read or has no end, or a file that it names is missing, lies
            outside the header's folder, or is no regular file.
    """
    try:
        with header.open("rb") as stream:
            text = stream.read(_MAX_HEADER_BYTES)
    except OSError as error:
        raise UserError(f"{header}: cannot be read ({error.strerror or error})") from error
    is_nrrd = header.suffix.lower() in _NRRD_SUFFIXES
    end = _NRRD_END.search(text) if is_nrrd else None
    fields = list((_NRRD_FIELD if is_nrrd else _META_FIELD).finditer(text[: end and end.start()]))
    if len(text) == _MAX_HEADER_BYTES and end is None and not fields:
        raise UserError(
            f"{header}: its header does not end within {_MAX_HEADER_BYTES} bytes; it is damaged or "
            "of another format: copy it again"
        )
    named = [
        name
        for field in fields
        for name in _named(header, field[1].decode(errors="replace"), text[field.end() :])
    ]
    return tuple(_checked(header, name) for name in dict.fromkeys(named))


def _named(header: Path, value: str, rest: bytes) -> Sequence[str]:
    """The names that a field gives: one, a list in the lines that follow, or a pattern."""
    value = value.strip()
    if not value:
        raise _refused(header, value, "has no name")
    if value.upper() == "LOCAL":
        return ()
    if value.upper().split()[0] == "LIST":
        lines = rest.decode(errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()]
    if "%" in value:
        return list(_numbered(header, value.split()[0]))
    return [value]


def _numbered(header: Path, pattern: str) -> Iterator[str]:
    """The files beside a header that fit a pattern such as ``slice%03d.raw``."""
    pieces = _NUMBER.split(pattern)
    if len(pieces) != 2 or "%" in "".join(pieces):
        raise _refused(header, pattern, "is no pattern of numbered files")
    before, after = pieces
    _check_place(header, pattern)
    folder = (header.parent / f"{before}x").parent
    fits = re.compile(re.escape(PurePosixPath(f"{before}x").name[:-1]) + r"\d+" + re.escape(after))
    names = [path.name for path in folder.glob("*") if fits.fullmatch(path.name)]
    yield from (str(folder.relative_to(header.parent) / name) for name in sorted(names))


def _checked(header: Path, name: str) -> Path:
    _check_place(header, name)
    path = header.parent / name
    if not path.is_file():
        raise _refused(header, name, "is missing or no regular file")
    return path


def _check_place(header: Path, name: str) -> None:
    if PurePosixPath(name).is_absolute() or ".." in re.split(r"[/\\]", name) or "\0" in name:
        raise _refused(header, name, "is named by a path that may lead elsewhere")


def _refused(header: Path, name: str, problem: str) -> UserError:
    return UserError(
        f"{header}: its data file {name[:80]!r} {problem}; put it beside the header, and its name "
        "alone into the header"
    )
