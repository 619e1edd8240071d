"""Sessions of clients: leases, expiry, folders."""

import hmac
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from medsam2_ft.errors import UserError
from medsam2_ft.serve.core import SegmentationSession
from medsam2_ft.serve.jobs import Job, Worker
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.schemas import NewSession
from medsam2_ft.serve.settings import Settings
from medsam2_ft.types import Geometry, IntensityRule

PREFIX = "medsam2-ft-serve-"
# Beside the sessions' folders: files of the page.
PAGE_FOLDER = "page"
_LOCK = "running.lock"
_REMEMBERED = 1000


@dataclass(eq=False)
class Held:
    """One client's session.

    Attributes:
        session_id: Unguessable; appears in logs.
        lease: Secret of the client.
        asked: What it was made with; model is resolved.
        folder: Its files, mode 0700.
        used_s: Last request that was no heartbeat.
        alive_s: Last request.
        received: Chunks that have arrived.
        core: None until the image is ready.
        running: The propagation that runs, or ran last.
    """

    asked: NewSession
    model: str
    folder: Path
    used_s: float
    alive_s: float
    session_id: str = field(default_factory=lambda: secrets.token_hex(12))
    lease: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    state: Literal["empty", "loading", "ready"] = "empty"
    received: set[int] = field(default_factory=set)
    core: SegmentationSession | None = None
    geometry: Geometry = field(default_factory=Geometry)
    has_geometry: bool = False
    is_video: bool = False
    rule: IntensityRule | None = None
    notes: tuple[str, ...] = ()
    modality: str | None = None
    running: Job | None = None
    guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_busy(self) -> bool:
        """Whether a propagation runs."""
        return self.running is not None and not self.running.over

    def begin_loading(self) -> bool:
        """Whether the caller is the one that turns what arrived into the image."""
        with self.guard:
            first = self.state == "empty"
            self.state = "loading" if first else self.state
        return first

    def ready(self) -> SegmentationSession:
        """Returns the segmentation.

        Raises:
            Problem: 409, the image has not arrived yet.
        """
        if self.core is None:
            raise Problem(409, "The image is not complete.", "Upload it first.")
        return self.core

    def idle(self) -> SegmentationSession:
        """Returns the segmentation, for changes.

        Raises:
            Problem: 409, see ``ready``; or a propagation is running.
        """
        core = self.ready()
        if self.is_busy:
            raise Problem(409, "A propagation is running.", "Wait for its end, or cancel it.")
        return core


class Sessions:
    """All sessions.

    Args:
        settings: Limits, folder and clock.
        workers: Whose jobs end with their session.

    Raises:
        UserError: The folder cannot be used.
    """

    def __init__(self, settings: Settings, workers: Sequence[Worker]) -> None:
        self.settings = settings
        self.workers = tuple(workers)
        self._held: dict[str, Held] = {}
        self._gone: dict[str, None] = {}
        self._guard = threading.Lock()
        try:
            self.root, self._lock = _fresh_root(settings.work_dir)
        except OSError as error:
            raise UserError(
                f"{settings.work_dir}: cannot hold the sessions' files ({error.strerror})"
            ) from error

    def open(self, asked: NewSession, model: str) -> Held:
        """Makes a session.

        Raises:
            Problem: 503, there are too many.
        """
        self.expire()
        now = self.settings.clock()
        with self._guard:
            if len(self._held) >= self.settings.max_sessions:
                raise Problem(503, "The server has no room for another session.", "Try later.")
            held = Held(asked, model, self.root, now, now)
            held.folder = self.root / held.session_id
            held.folder.mkdir(mode=0o700)
            self._held[held.session_id] = held
        return held

    def get(self, session_id: str, lease: str | None, *, heartbeat: bool = False) -> Held:
        """Returns the session of a client.

        Raises:
            Problem: 404, no such session, or another's; 410, it has expired.
        """
        self.expire()
        with self._guard:
            held = self._held.get(session_id)
            gone = session_id in self._gone
        given = (lease or "").encode("utf-8", "surrogateescape")
        if held is None or not hmac.compare_digest(held.lease.encode(), given):
            if gone:
                raise Problem(410, "The session has expired.", "Make a new one.")
            raise Problem(404, "There is no such session.", "Check id and X-Lease.")
        held.alive_s = self.settings.clock()
        if not heartbeat:
            held.used_s = held.alive_s
        return held

    def close(self, session_id: str, *, expired: bool = False) -> None:
        """Releases a session with its jobs and files."""
        with self._guard:
            held = self._held.pop(session_id, None)
            if held is None:
                return
            if expired:
                self._gone[session_id] = None
                for old in list(self._gone)[:-_REMEMBERED]:
                    del self._gone[old]
        for worker in self.workers:
            worker.drop(session_id)
        held.core = None
        shutil.rmtree(held.folder, ignore_errors=True)

    def expire(self) -> None:
        """Releases the sessions whose time is over."""
        now, limits = self.settings.clock(), self.settings
        with self._guard:
            over = [
                key
                for key, held in self._held.items()
                if now - held.used_s > limits.idle_s or now - held.alive_s > limits.heartbeat_s
            ]
        for session_id in over:
            self.close(session_id, expired=True)

    def expires_in_s(self, held: Held) -> float:
        """Seconds until a session ends if nothing but heartbeats comes."""
        return max(0.0, held.used_s + self.settings.idle_s - self.settings.clock())

    def __len__(self) -> int:
        """Number of sessions."""
        return len(self._held)

    def shut_down(self) -> None:
        """Releases everything and removes the folder."""
        for session_id in list(self._held):
            self.close(session_id)
        self._lock.release()
        shutil.rmtree(self.root, ignore_errors=True)


def _fresh_root(work_dir: Path | None) -> tuple[Path, FileLock]:
    """Makes the folder of this server, and removes those that killed servers left.

    A server that runs holds the lock in its folder.
    """
    parent = Path(tempfile.gettempdir()) if work_dir is None else work_dir
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.glob(f"{PREFIX}*"):
        if old.is_symlink() or not (old / _LOCK).is_file() or old.stat().st_uid != os.getuid():
            continue
        with suppress(Timeout), FileLock(old / _LOCK, timeout=0):
            shutil.rmtree(old, ignore_errors=True)
    root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # mode 0700
    lock = FileLock(root / _LOCK, timeout=0, thread_local=False)  # another thread releases it
    lock.acquire()
    return root, lock
