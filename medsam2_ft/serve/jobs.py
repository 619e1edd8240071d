"""One inference thread for all sessions, and the jobs that wait for it.

Work that consists of steps is put back into the queue after each of them: whatever is more urgent
goes in between. That is the GPU lock; a session's own lock is taken before a step and released
after it.
"""

import itertools
import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

from medsam2_ft.serve.problems import Problem, as_problem
from medsam2_ft.serve.settings import Settings

State = Literal["queued", "running", "done", "failed", "cancelled"]
POLL_FRAMES = 64
KEPT_JOBS = 256


class Urgency(IntEnum):
    """Lower goes first."""

    PROMPT = 0
    VIEW = 1
    STEP = 2


@dataclass(frozen=True, eq=False)
class Payload:
    """A result that is a file.

    Attributes:
        content: Its bytes.
        name: Its name.
    """

    content: bytes
    name: str


@dataclass(eq=False)
class Job:
    """Work for the inference thread.

    Attributes:
        kind: ``prompt``, ``propagate``, ``view``, ``load``, ``segment`` ...
        owner: The session's id, or that of a stateless call.
        job_id: Unguessable.
        lease: Secret of a stateless call; a session's job has its session's.
        frames: Slice and changed regions of each step, as JSON holds them.
        result: What the request answers.
        problem: Why it failed.
    """

    kind: str
    owner: str
    job_id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    lease: str | None = None
    state: State = "queued"
    done: int = 0
    total: int = 1
    frames: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)
    result: Any = None
    problem: Problem | None = None
    started_s: float | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.finished.is_set()

    def to_json(self, now_s: float, after: int = 0) -> dict[str, Any]:
        """Returns what a poll answers; ``after`` counts the frames that were sent before."""
        eta = None
        if self.state == "running" and self.started_s is not None and 0 < self.done < self.total:
            eta = (now_s - self.started_s) / self.done * (self.total - self.done)
        sent = self.frames[after : after + POLL_FRAMES]
        following = min(after, len(self.frames)) + len(sent)
        return {
            "job_id": self.job_id,
            "kind": self.kind,
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "eta_s": eta,
            "next": following,
            "remaining": len(self.frames) - following,
            "frames": [frame for frame, _ in sent],
            "regions": [region for _, regions in sent for region in regions],
            "result": self._shown(),
            "problem": None if self.problem is None else self.problem.to_json(),
        }

    def _shown(self) -> Any:
        if isinstance(self.result, Payload):
            return {"file": f"/api/v1/jobs/{self.job_id}/file", "bytes": len(self.result.content)}
        return self.result if self.over else None


@dataclass(eq=False)
class _Task:
    job: Job
    steps: Callable[[], Any] | Iterator[Any]
    urgency: Urgency
    lock: AbstractContextManager[Any]


class Worker:
    """Runs jobs on one thread, the most urgent first.

    Args:
        settings: Queue limit and clock.
        name: Of the thread.
    """

    def __init__(self, settings: Settings, name: str = "inference") -> None:
        self.settings = settings
        self.jobs: dict[str, Job] = {}
        self._order = itertools.count()
        self._queue: queue.PriorityQueue[tuple[int, int, _Task | None]] = queue.PriorityQueue()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self,
        kind: str,
        owner: str,
        work: Callable[[], Any] | Iterator[Any],
        urgency: Urgency,
        lock: AbstractContextManager[Any] | None = None,
    ) -> Job:
        """Queues work.

        Args:
            kind: See ``Job``.
            owner: See ``Job``.
            work: A function, or an iterator over steps whose return value is the result.
            urgency: What it may overtake.
            lock: Held during each step.

        Raises:
            Problem: 503, the queue is full.
        """
        job = Job(kind, owner)
        self.start(job, work, urgency, lock)
        return job

    def start(
        self,
        job: Job,
        work: Callable[[], Any] | Iterator[Any],
        urgency: Urgency,
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        """Queues the work of a job that the caller made, see ``submit``."""
        with self._guard:
            waiting = sum(not other.over for other in self.jobs.values())
            if waiting >= self.settings.max_queue:
                raise Problem(503, "Too many requests wait for the model.", "Ask again later.")
            over = [key for key, other in self.jobs.items() if other.over]
            for key in over[: max(0, len(over) - KEPT_JOBS)]:
                del self.jobs[key]
            self.jobs[job.job_id] = job
        self._put(_Task(job, work, urgency, lock or nullcontext()))

    def drop(self, owner: str) -> None:
        """Cancels and forgets the jobs of a session."""
        with self._guard:
            for key in [k for k, job in self.jobs.items() if job.owner == owner]:
                self.jobs.pop(key).cancel.set()

    def close(self) -> None:
        """Cancels everything and ends the thread."""
        with self._guard:
            for job in self.jobs.values():
                job.cancel.set()
        self._queue.put((-1, next(self._order), None))
        self._thread.join(timeout=10)

    def _put(self, task: _Task) -> None:
        self._queue.put((task.urgency, next(self._order), task))

    def _run(self) -> None:
        while (task := self._queue.get()[2]) is not None:
            self._step(task)

    def _step(self, task: _Task) -> None:
        job = task.job
        if job.cancel.is_set() and (job.started_s is None or callable(task.steps)):
            self._end(job, "cancelled")
            return
        if job.started_s is None:
            job.started_s = self.settings.clock()
            job.state = "running"
        try:
            with task.lock:
                if callable(task.steps):
                    job.result = task.steps()
                    job.done = job.total
                else:
                    next(task.steps)
                    self._put(task)
                    return
        except StopIteration as stop:
            job.result = stop.value
        except Exception as error:  # noqa: BLE001 (one job's failure must not end the thread of all)
            job.problem = as_problem(error)
            self._end(job, "failed")
            return
        self._end(job, "cancelled" if job.cancel.is_set() else "done")

    def _end(self, job: Job, state: State) -> None:
        job.state = state
        job.finished.set()
