"""The slice store: every npz case once as compressed slices, built in parallel and kept current.

A store is a folder::

    lock                      held (flock) while a process builds
    sources.json              file -> size, modification time and sha256 it was built from
    cases/<stem>-<sha>/       one case (``case_arrays``); the name is made from the file's content
    index/<sha>/              one table over the cases of a split (``index``)

A case folder appears by a rename, complete or not at all, so an interrupted build goes on where it
stopped. A file that was only touched keeps its folder: size and modification time decide whether
its sha256 is computed again, the sha256 decides whether it is stored again.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from rich.console import Console

from medsam2_ft.data.build import FORMAT_VERSION, SourceState, build_cases, source_stat
from medsam2_ft.data.case_arrays import CaseFacts
from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import write_json


@dataclass(frozen=True)
class StoredCase:
    """A case file and where the store holds it.

    Attributes:
        path: The npz file.
        folder: Name of the case's folder below ``<store>/cases``; its path relative to there where
            the case lies in the store of another data set.
        facts: Shape, labels and descriptions.
    """

    path: Path
    folder: str
    facts: CaseFacts


def locate_store(data_dir: Path, store_dir: Path | None) -> Path:
    """Returns the folder of the store of ``data_dir``; makes it.

    ``<data_dir>/.store``, or a folder in the user's cache (XDG) where the data lie on read-only
    storage, or a folder of this data set's own in ``store_dir``.

    Args:
        data_dir: Folder that holds the cases.
        store_dir: The user's choice, None for the default.

    Raises:
        UserError: If ``store_dir`` is not writable.
    """
    resolved = data_dir.resolve()
    # Two data sets in one place must not remove each other's cases.
    own = f"{_plain(resolved.name)}-{hashlib.sha256(os.fsencode(resolved)).hexdigest()[:8]}"
    if store_dir is not None:
        if not _is_writable(store_dir / own):
            raise UserError(
                f"{store_dir}: the slice store cannot be written there; choose another."
            )
        return store_dir / own
    if _is_writable(data_dir / ".store"):
        return data_dir / ".store"
    cache = platformdirs.user_cache_path("medsam2-ft") / "store" / own
    if not _is_writable(cache):
        raise UserError(
            f"{data_dir}: neither this folder nor {cache} is writable for the slice store; "
            "set store_dir."
        )
    return cache


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:40]


def update_store(
    root: Path,
    paths: Sequence[Path],
    *,
    keep: Iterable[Path] = (),
    workers: int | None = None,
    quiet: bool = False,
) -> list[StoredCase]:
    """Brings the store up to date with the case files and returns its cases.

    Only files whose bytes are new are read. Safe beside other processes: one builds, the others
    wait and find everything done. Everything that can be built is built before a broken file is
    reported.

    Args:
        root: Folder from ``locate_store``.
        paths: The npz files that are wanted, in the order of the result.
        keep: Further files of the data set, whose cases stay if they are there. Cases of all other
            files are removed.
        workers: Processes that build, one case each; by default one a core, at most eight.
        quiet: No progress bar and no messages.

    Raises:
        UserError: If a file is broken (it is named) or the store cannot be written.
    """
    console = Console(stderr=True, quiet=quiet)
    with locked(root, console):
        states = _read_states(root)
        cases_dir = root / "cases"
        cases_dir.mkdir(exist_ok=True)
        _remove_leftovers(cases_dir)
        todo = [path for path in paths if not _is_current(path, states, cases_dir)]
        failures: list[UserError] = []
        try:
            for path, outcome in build_cases(todo, cases_dir, _worker_count(workers), console):
                if isinstance(outcome, UserError):
                    failures.append(outcome)
                else:
                    states[str(path.resolve())] = outcome
        finally:
            known = {str(path.resolve()) for path in (*paths, *keep)}
            states = {source: state for source, state in states.items() if source in known}
            write_json(
                root / "sources.json", {source: vars(state) for source, state in states.items()}
            )
        _remove_stale(root, {state.folder for state in states.values()})
    if failures:
        more = f" ({len(failures) - 1} further files are broken)" if len(failures) > 1 else ""
        raise UserError(f"{failures[0]}{more}")
    return [_stored(path, states[str(path.resolve())].folder, cases_dir) for path in paths]


def _stored(path: Path, folder: str, cases_dir: Path) -> StoredCase:
    text = (cases_dir / folder / "case.json").read_text(encoding="utf-8")
    return StoredCase(path, folder, CaseFacts.from_json(text))


def _worker_count(workers: int | None) -> int:
    if workers is not None:
        return max(workers, 1)
    # One volume per worker is in memory; beyond eight the disk is the limit anyway.
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, 8)


def _is_current(path: Path, states: dict[str, SourceState], cases_dir: Path) -> bool:
    state = states.get(str(path.resolve()))
    return (
        state is not None
        and state.version == FORMAT_VERSION
        and state.stat == source_stat(path)
        and (cases_dir / state.folder / "case.json").is_file()
    )


def _read_states(root: Path) -> dict[str, SourceState]:
    file = root / "sources.json"
    if not file.is_file():
        return {}
    # A file that some other version wrote costs a new hash of every case, not an error.
    with suppress(ValueError, TypeError, AttributeError):
        entries = json.loads(file.read_text(encoding="utf-8"))
        return {source: SourceState(**state) for source, state in entries.items()}
    return {}


def _remove_leftovers(cases_dir: Path) -> None:
    """Removes what killed builders left; the caller holds the lock, so nobody builds now."""
    for folder in cases_dir.glob(".tmp-*"):
        _discard(folder, cases_dir)


def _remove_stale(root: Path, folders: set[str]) -> None:
    """Removes case folders that no source refers to, and index tables that refer to them."""
    cases_dir = root / "cases"
    for folder in cases_dir.iterdir():
        if folder.name not in folders and not folder.name.startswith(".tmp-"):
            _discard(folder, cases_dir)
    for table in (root / "index").glob("*/cases.json"):
        with suppress(OSError, ValueError):
            if not set(json.loads(table.read_text(encoding="utf-8"))) <= folders:
                _discard(table.parent, cases_dir)


def _discard(folder: Path, cases_dir: Path) -> None:
    """Removes a folder that loses its name first.

    Half of a folder under the name of a whole one would be taken for it, if this process is killed
    on the way. And a worker that outlives its killed parent by an instant can no longer name a
    folder that is being emptied.
    """
    nameless = cases_dir / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
    with suppress(OSError):
        folder.rename(nameless)
    shutil.rmtree(nameless, ignore_errors=True)


@contextmanager
def locked(root: Path, console: Console | None = None) -> Iterator[None]:
    """Holds the store's lock; the system releases it when the process ends, however it ends.

    Args:
        root: Folder of the store.
        console: Where to say that another process holds the lock.
    """
    with (root / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if console is not None:
                console.print(f"Waiting for another process that builds {root} ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
