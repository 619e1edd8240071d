"""One thread in the background for everything that waits for the network.

The user interface starts work and fetches what came of it when its timer ticks; nothing of MRML
or Qt is touched here.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

Report = Callable[[str, Any], None]
Work = Callable[[Report], Any]


@dataclass(frozen=True)
class Outcome:
    """Something that happened in the background.

    Attributes:
        task: Number of the work, as ``Worker.start`` gave it; 0 of what is done when idle.
        kind: ``done``, ``failed``, or what the work reports.
        value: Result, exception, or what is reported.
    """

    task: int
    kind: str
    value: Any = None


class Worker:
    """Runs one work after another.

    Args:
        when_idle: Done whenever nothing was asked for a while, such as a heartbeat.
        idle_s: How long that while is.
    """

    def __init__(self, when_idle: Callable[[], None], idle_s: float = 20.0) -> None:
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        self.idle_s = idle_s
        self._when_idle = when_idle
        self._tasks: queue.Queue[Optional[tuple[int, Work]]] = queue.Queue()
        self._count = 0
        self._thread = threading.Thread(target=self._run, name="MedSAM2FT", daemon=True)
        self._thread.start()

    def start(self, work: Work) -> int:
        """Queues work and returns its number; it gets a function to report with."""
        self._count += 1
        self._tasks.put((self._count, work))
        return self._count

    def close(self, wait_s: float) -> None:
        """Ends the thread behind the work that is queued; waits for it a while."""
        self._tasks.put(None)
        self._thread.join(wait_s)

    def _run(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=self.idle_s)
            except queue.Empty:
                self._attempt(0, lambda _: self._when_idle())
                continue
            if task is None:
                return
            self._attempt(*task)

    def _attempt(self, number: int, work: Work) -> None:
        def report(kind: str, value: Any) -> None:
            self.outcomes.put(Outcome(number, kind, value))

        try:
            report("done", work(report))
        except Exception as error:  # noqa: BLE001 (the user interface shows it)
            report("failed", error)
