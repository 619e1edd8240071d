"""Files from the network, checked by their sha256; an interrupted download continues."""

import hashlib
import json
import logging
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import write_json

logger = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 1 << 20
_TIMEOUT_S: Final = 30.0
_PARTIAL_CONTENT: Final = 206
_RANGE_NOT_SATISFIABLE: Final = 416


def sha256_of(path: Path) -> str:
    """Returns the hexadecimal sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_verified(path: Path, sha256: str) -> bool:
    """Whether a file has this sha256.

    A positive result is remembered in a small file beside it until size or time of change
    differ, so that a large checkpoint is not hashed at every start.
    """
    stat = path.stat()
    stamp = {"sha256": sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    note = path.with_name(f".{path.name}.verified.json")
    try:
        if json.loads(note.read_text()) == stamp:
            return True
    except (OSError, ValueError):
        logger.debug("no readable %s, computing the checksum of %s", note, path)
    if sha256_of(path) != sha256:
        return False
    try:
        write_json(note, stamp)
    except UserError:
        logger.debug("cannot write %s, the checksum is computed again next time", note)
    return True


def released_file(target: Path, url: str, sha256: str, *, if_absent: str, if_other: str) -> None:
    """Downloads a published file where it is missing, and verifies it.

    Args:
        target: Where it lies, or goes.
        url: Where it is published.
        sha256: Its checksum, hexadecimal.
        if_absent: What the user can do without it, for the message.
        if_other: What the user can do with another file of that name.

    Raises:
        UserError: It cannot be downloaded, or has another checksum.
    """
    if not target.is_file():
        lock = target.with_name(f".{target.name}.lock")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Every rank of a distributed run comes here: one downloads, the others wait.
            with FileLock(lock):
                if not target.is_file():
                    download(url, target, sha256)
        except OSError as error:
            with suppress(OSError):  # leave nothing but a part that a next try continues
                lock.unlink(missing_ok=True)
            raise UserError(
                f"{target}: not there, and downloading it failed ({error}). Put the file from "
                f"{url} there, or {if_absent}."
            ) from error
    if not is_verified(target, sha256):
        raise UserError(
            f"{target}: its sha256 is not that of Meta's {target.name}; the file is damaged "
            f"or another one. Delete it, or {if_other}."
        )


def download(url: str, target: Path, sha256: str) -> None:
    """Fetches a file through ``<name>.part``, continuing what an earlier try left there.

    Args:
        url: Where the file is.
        target: Where it goes, once it is complete and its checksum is right.
        sha256: Expected checksum, hexadecimal.

    Raises:
        OSError: No network, the server refused, or the connection broke; the part stays.
        UserError: The bytes that arrived have another checksum; they are deleted.
    """
    part = target.with_name(f"{target.name}.part")
    logger.warning("Downloading %s to %s", url, target)
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            # A server that ignores the range sends the whole file again.
            _receive(response, part, start if response.status == _PARTIAL_CONTENT else 0)
    except urllib.error.HTTPError as error:
        if error.code != _RANGE_NOT_SATISFIABLE or not start:  # else the part is complete
            raise
    if sha256_of(part) != sha256:
        part.unlink()
        raise UserError(
            f"{url}: the download has a wrong sha256 and was deleted. Try again, or put the file "
            f"at {target} yourself."
        )
    part.replace(target)


def _receive(response: Any, part: Path, start: int) -> None:
    """Copies a response behind the first ``start`` bytes of a file, with a progress bar.

    Raises:
        OSError: The connection broke, or fewer bytes came than were announced.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    received = start
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with (
        part.open("ab" if start else "wb") as file,
        Progress(*columns, TimeRemainingColumn()) as progress,
    ):
        task = progress.add_task(part.stem, total=total, completed=start)
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            received += len(chunk)
            progress.update(task, completed=received)
    if total is not None and received != total:
        raise OSError(f"the connection closed after {received} of {total} bytes")
