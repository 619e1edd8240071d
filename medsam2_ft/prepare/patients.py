"""Patients of DICOM files: told apart by salted hashes, never named in an output file."""

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import sync_and_replace, temporary_beside, write_failure

SALT = ".patient_salt"
"""File in the output folder. Who has it can test whether a given id is in the manifest."""
_SALT_BYTES = 32
_SHOWN_DIGITS = 12
_SHORTEST_NAME = 3  # shorter family names are words of other meaning too often

_WORD = re.compile(r"[^\W_]+")
_UID_OR_DATE = re.compile(
    r"\d+(?:\.\d+){4,}"
    r"|(?<!\d)(?:19|20)\d\d(?P<a>[-._]?)(?:0[1-9]|1[0-2])(?P=a)(?:0[1-9]|[12]\d|3[01])(?!\d)"
    r"|(?<!\d)\d\d(?P<b>[-._])\d\d(?P=b)(?:19|20)\d\d(?!\d)"
)


@dataclass(frozen=True)
class Veil:
    """Puts salted hashes in the place of identifiers in names and messages.

    Attributes:
        salt: Makes the hashes useless to who does not have it.
        patients: Every PatientID and name of the input; without any DICOM file None, and nothing
            changes.
    """

    salt: bytes = field(default=b"", repr=False)
    patients: tuple[str, ...] | None = field(default=None, repr=False)

    def digest(self, text: str) -> str:
        """Returns 12 hexadecimal digits of the sha256 of salt and text."""
        return hashlib.sha256(self.salt + os.fsencode(text)).hexdigest()[:_SHOWN_DIGITS]

    def patient(self, patient_id: str) -> str:
        """Returns what stands for a patient, such as ``p1f2e3d4c5b6``."""
        return f"p{self.digest(''.join(_words(patient_id)))}"

    def text(self, text: str) -> str:
        """Returns ``text`` with hashes for patients, DICOM UIDs and dates.

        A PatientID or name counts where it stands as a word of its own, whatever separates its
        pieces (``STS_008``, ``sts-008``).
        """
        if self.patients is None:
            return text
        pieces, end = [], 0
        for start, stop in self._mentions(text):
            pieces += [text[end:start], self.patient(text[start:stop])]
            end = stop
        return _UID_OR_DATE.sub(
            lambda m: f"x{self.digest(m.group())}", "".join([*pieces, text[end:]])
        )

    def narrowed(self, texts: Iterable[str]) -> "Veil":
        """Returns a veil that does the same for ``texts`` and knows no other patients."""
        if self.patients is None:
            return self
        found = {text[start:stop] for text in texts for start, stop in self._mentions(text)}
        return Veil(self.salt, tuple(sorted(found)))

    def path(self, path: PurePath) -> PurePath:
        """Returns ``path`` with ``text`` applied to it."""
        return PurePath(*map(self.text, path.parts))

    @cached_property
    def _spellings(self) -> frozenset[tuple[str, ...]]:
        """Words of every PatientID and name, and those words in one."""
        known = {_words(patient) for patient in self.patients or ()} - {()}
        return frozenset(known | {("".join(words),) for words in known})

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        """Numbers of words that spellings have, longest first."""
        return tuple(sorted({len(spelling) for spelling in self._spellings}, reverse=True))

    def _mentions(self, text: str) -> Iterator[tuple[int, int]]:
        """Yields where patients are named, from the left, the longest spelling first."""
        words = list(_WORD.finditer(text))
        first = 0
        while first < len(words):
            for length in self._lengths:
                run = words[first : first + length]
                spelling = tuple(word.group().lower() for word in run)
                start, stop = run[0].start(), run[-1].end()
                if spelling in self._spellings and "/" not in text[start:stop]:
                    yield start, stop
                    first += len(run) - 1
                    break
            first += 1


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORD.findall(text))


def name_spellings(name: str) -> list[str]:
    """Returns how a DICOM name ``family^given^...`` may be written in the name of a folder."""
    family, *given = [part for part in re.split(r"[\^=]", name) if part.strip()] or [""]
    whole = [" ".join([family, *given]), " ".join([*given, family])]
    return [*whole, family] if len(family) >= _SHORTEST_NAME else whole


def salt_of(out: Path) -> bytes:
    """Returns the salt of an output folder, a new one where it has none.

    Raises:
        UserError: The salt cannot be read.
    """
    return _read_salt(out) or secrets.token_bytes(_SALT_BYTES)


def make_veil(salt: bytes, patients: Iterable[str] | None) -> Veil:
    """Makes the veil for an input.

    Args:
        salt: From ``salt_of``.
        patients: Every PatientID and spelling of a name, empty ones included; None without DICOM
            files.
    """
    return Veil() if patients is None else Veil(salt, tuple(sorted(set(patients))))


def joined_veil(salt: bytes, veils: Iterable[Veil]) -> Veil:
    """Makes the veil for several inputs; all of theirs have the same salt."""
    known = [veil.patients for veil in veils if veil.patients is not None]
    return make_veil(salt, [patient for ids in known for patient in ids] if known else None)


def keep_salt(out: Path, veil: Veil) -> None:
    """Stores the salt, readable by its owner alone, so that the next run gives the same hashes.

    Args:
        out: Output folder, locked.
        veil: Of this run; without DICOM files nothing is stored.

    Raises:
        UserError: It cannot be written, or another run has stored another one meanwhile.
    """
    if veil.patients is None:
        return
    path = out / SALT
    stored = _read_salt(out)
    if stored is None:
        _write_secret(path, veil.salt.hex() + "\n")
    elif stored != veil.salt:
        raise UserError(f"{path}: was written by another run meanwhile; run the command again")


def _write_secret(path: Path, text: str) -> None:
    temporary = temporary_beside(path)
    try:
        temporary.touch(mode=0o600, exist_ok=False)
        temporary.write_text(text, encoding="ascii")
        sync_and_replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_failure(path, error) from error


def _read_salt(out: Path) -> bytes | None:
    path = out / SALT
    try:
        text = path.read_text(encoding="ascii").strip()
        salt = bytes.fromhex(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: the salt of the patients' hashes cannot be read ({error}); restore it, or "
            "give another output folder"
        ) from error
    if len(salt) != _SALT_BYTES:
        raise UserError(
            f"{path}: holds {len(salt)} bytes, not {_SALT_BYTES}; restore it, or give another "
            "output folder"
        )
    return salt
