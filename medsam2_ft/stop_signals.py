"""SIGUSR1 and SIGTERM: noted when they come, obeyed where a run can be left and resumed.

A handler that did more than take a note could run in the middle of a collective, of a write or of
an optimiser step.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Windows has no SIGUSR1.
STOP_SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGUSR1", "SIGTERM") if name in signal.Signals.__members__
)
EXIT_OF_SIGNAL = 128  # plus its number: the shell's own convention

_received: signal.Signals | None = None
_listening = False


class Stopped(SystemExit):
    """A run ends because a signal asked for it.

    Args:
        signum: The signal; the strongest one, where ranks got several.
        message: What became of the run, in one line.
        code: Exit code of the process, on every rank; 128 + signal where not given.
    """

    def __init__(self, signum: int, message: str = "", code: int | None = None) -> None:
        super().__init__(EXIT_OF_SIGNAL + signum if code is None else code)
        self.signum = signal.Signals(signum)
        self.message = message or f"stopped by {self.signum.name}"


@contextmanager
def listening() -> Iterator[None]:
    """Notes the signals within the block instead of dying of them; blocks may be nested.

    In a thread other than the main one nothing changes. When the outermost block ends after a
    signal, further ones are ignored: a scheduler sends several, and the process is on its way out.
    """
    global _received, _listening
    if _listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    _received, _listening = None, True
    before = {signum: signal.signal(signum, _note) for signum in STOP_SIGNALS}
    try:
        yield
    finally:
        _listening = False
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_IGN if _received else handler)


def received() -> signal.Signals | None:
    """Returns the signal that this process has got; SIGTERM where it got both."""
    return _received


def raise_if_received() -> None:
    """Leaves at once; for work that needs no saving and that no other process waits for.

    Raises:
        Stopped: A signal has come.
    """
    if _received is not None:
        raise Stopped(_received)


def ignore_stop_signals() -> None:
    """Lets a helper process outlive signals to its group; its parent says when to end."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def _note(signum: int, frame: FrameType | None) -> None:
    global _received
    _received = max(_received or signal.Signals(signum), signal.Signals(signum))
