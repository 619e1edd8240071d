"""Limits and timeouts of the server, each in one place."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

NOTICE = "Research use only. Not a medical device."


@dataclass(frozen=True)
class Settings:
    """How a server behaves.

    Attributes:
        token: Bearer token; None leaves the door open, for loopback only.
        hosts: Values of the Host header that are answered (without port); others are refused.
        accept_dir: Folder of accepted training cases; None refuses them.
        work_dir: Folder of the sessions' files; None makes a temporary one.
        max_voxels: Of one session.
        max_sessions: At the same time.
        max_objects: Of one session.
        max_queue: Requests that wait for the model, of all sessions.
        max_upload_bytes: Of an uploaded file, or of one stateless call.
        chunk_bytes: Of an upload in chunks, before compression.
        idle_s: A session ends after so many seconds without a request other than heartbeats.
        heartbeat_s: A session ends after so many seconds without any request.
        request_s: After so many seconds a request is answered with a job.
        clock: Seconds; tests give their own.
    """

    token: str | None = None
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    accept_dir: Path | None = None
    work_dir: Path | None = None
    max_voxels: int = 512 << 20
    max_sessions: int = 8
    max_objects: int = 64
    max_queue: int = 32
    max_upload_bytes: int = 1 << 30
    chunk_bytes: int = 4 << 20
    idle_s: float = 1800.0
    heartbeat_s: float = 120.0
    request_s: float = 1.5
    clock: Callable[[], float] = monotonic
