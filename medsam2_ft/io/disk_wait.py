"""Writes that wait for a disk which is full or gone for a while."""

import errno
import os
import sys
import time
from collections.abc import Callable

from medsam2_ft.errors import UserError
from medsam2_ft.stop_signals import received

# Full, over quota, read-only, broken, unmounted, disconnected: what an administrator repairs.
_TROUBLE = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ENOENT", "ESTALE"),
        *("ENODEV", "ENXIO", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "ESHUTDOWN"),
    )
    if hasattr(errno, name)
)
LONGEST_PAUSE_S = 30.0
# What is left of the notice that a scheduler gives, when a signal comes in the middle of a wait.
AFTER_SIGNAL_S = 60.0


def is_disk_trouble(error: BaseException) -> bool:
    """Whether a failed write may succeed later; looks at what caused a ``UserError``."""
    cause: BaseException | None = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in _TROUBLE


def write_patiently(write: Callable[[], object], wait_min: float) -> None:
    """Writes; while the disk refuses, says so once and tries again.

    Args:
        write: Writes all or nothing; called again after a failure.
        wait_min: For how many minutes. A signal to stop (`stop_signals`) leaves one minute of it.

    Raises:
        UserError: The disk has not come back.
    """
    start_s = time.monotonic()
    deadline_s = start_s + 60 * wait_min
    pause_s = 1.0
    paused = hurried = False
    while True:
        try:
            write()
        except (OSError, UserError) as error:
            if not is_disk_trouble(error):
                raise
            if not paused:
                _say(f"paused: {error}; trying again for {wait_min:g} min")
                paused = True
            if received() is not None and not hurried:
                hurried = True
                deadline_s = min(deadline_s, time.monotonic() + AFTER_SIGNAL_S)
            if time.monotonic() >= deadline_s:
                waited_min = (time.monotonic() - start_s) / 60
                raise UserError(f"{error}; waited {waited_min:.1f} min in vain") from error
        else:
            if paused:
                _say("the disk is back, going on")
            return
        time.sleep(max(0.0, min(pause_s, deadline_s - time.monotonic())))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def require_folder(folder: str | os.PathLike[str]) -> None:
    """Refuses to write into a folder that has vanished, instead of creating it on another disk.

    Raises:
        FileNotFoundError: It is not there.
    """
    if not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises for a stale mount
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(folder))


def _say(text: str) -> None:
    print(" ".join(text.split()), file=sys.stderr, flush=True)
