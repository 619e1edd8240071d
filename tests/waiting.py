"""Waits for something to happen, however loaded the machine is."""

import time
from collections.abc import Callable


def wait_until(
    done: Callable[[], bool],
    what: str | Callable[[], str],
    seconds: float,
    pause_s: float = 0.05,
) -> None:
    """Returns when ``done()``; fails with ``what`` where that takes longer than ``seconds``.

    Asks every ``pause_s``.
    """
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {seconds:.0f} s: {said}")
        time.sleep(pause_s)
