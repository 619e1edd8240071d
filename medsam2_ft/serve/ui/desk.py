"""What the page does to sessions: the same sessions, workers and limits as the HTTP API's."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from medsam2_ft.serve.context import Context
from medsam2_ft.serve.core import SegmentationSession
from medsam2_ft.serve.jobs import Job, Urgency
from medsam2_ft.serve.problems import Problem, as_problem
from medsam2_ft.serve.routes.jobs import start_propagation
from medsam2_ft.serve.schemas import NewSession, Propagation
from medsam2_ft.serve.sessions import PAGE_FOLDER, Held
from medsam2_ft.serve.uploads import load, safe_suffix, stated_rate

Result = TypeVar("Result")
_SOURCE = "source"
KEEP_ALIVE_S = 20
LEFT_S = 2 * KEEP_ALIVE_S
"""So many seconds after the browser has gone, its sessions end."""
USUAL_RATE = 25.0
"""Frames per second where a video states none."""


@dataclass(frozen=True)
class Seat:
    """What the browser's tab holds of its session: never an image.

    Attributes:
        session_id: Of the session.
        lease: Its secret.
        suffix: Of the file that was opened, which is kept to change window or model.
        every: Of a video, every so many frames are used.
        rate: Frames per second of what is used; None where it is no video.
        names: Names of objects.
        ids: Objects that can be chosen.
    """

    session_id: str
    lease: str
    suffix: str
    every: int = 1
    rate: float | None = None
    names: tuple[tuple[int, str], ...] = ()
    ids: tuple[int, ...] = (1,)

    def named(self, object_id: int, name: str) -> "Seat":
        """Returns the seat with a name for an object; an empty one takes it away."""
        names = {**dict(self.names), object_id: name.strip()[:100]}
        return replace(self, names=tuple((key, text) for key, text in names.items() if text))


@contextmanager
def kindly() -> Iterator[None]:
    """Turns what goes wrong into one line on the page."""
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        problem = as_problem(error)
        line = f"{problem.detail} {problem.hint}".strip()
        raise gr.Error(line, print_exception=False, duration=15) from error


class Desk:
    """Works on sessions for the page.

    Args:
        context: Of the application.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.folder = context.sessions.root / PAGE_FOLDER
        self._visits: dict[str, dict[str, Seat]] = {}

    def held(self, seat: Seat | None) -> Held:
        """Returns the session of a seat.

        Raises:
            Problem: There is none, or no more.
        """
        if seat is None:
            raise Problem(409, "No file is open.", "Open one first.")
        try:
            return self.context.sessions.get(seat.session_id, seat.lease)
        except Problem as problem:
            raise Problem(410, "The session has ended.", "Open the file again.") from problem

    def open(self, file: Path, asked: NewSession, frames_per_second: float = 0.0) -> Seat:
        """Opens a session on an uploaded file, which is moved into its folder.

        Raises:
            Problem: Full, no model, or no image format.
            UserError: The file cannot be read.
        """
        suffix = safe_suffix(file.name)
        held = self.context.sessions.open(asked, self.context.model_id(asked.model))
        try:
            source = held.folder / f"{_SOURCE}{suffix}"
            shutil.move(file, source)
            seat = Seat(held.session_id, held.lease, suffix)
            if asked.kind == "video":
                seat = _with_rate(seat, source, frames_per_second)
            held.begin_loading()
            self._load(held, seat)
        except BaseException:
            self.context.sessions.close(held.session_id)
            raise
        return seat

    def reopen(self, seat: Seat, asked: NewSession) -> None:
        """Reads the file again with another window or model; masks and prompts stay.

        Raises:
            Problem: A propagation is running, or there is no such model.
        """
        held = self.held(seat)
        before = held.idle(), held.asked, held.model
        held.asked, held.model = asked, self.context.model_id(asked.model)
        try:
            self._load(held, seat)
            held.ready().take_over(before[0])
        except BaseException:
            held.core, held.asked, held.model = before
            raise

    def _load(self, held: Held, seat: Seat) -> None:
        def work() -> None:
            copy = held.folder / f"{secrets.token_hex(8)}{seat.suffix}"
            os.link(held.folder / f"{_SOURCE}{seat.suffix}", copy)  # load removes what it read
            load(held, self.context.engine, self.context.settings, copy, seat.every)

        wait(self.context.files.submit("load", held.session_id, work, Urgency.PROMPT))

    def change(
        self, seat: Seat | None, kind: str, work: Callable[[SegmentationSession], Result]
    ) -> Result:
        """Runs a prompt or another change before all propagation, and waits for it.

        Raises:
            Problem: A propagation is running.
            UserError: What the work refuses.
        """
        result: Result = wait(self.context.submit(self.held(seat), kind, work))
        return result

    def propagate(self, seat: Seat | None, asked: Propagation) -> Job:
        """Starts a propagation."""
        return start_propagation(self.context, self.held(seat), asked)

    def cancel(self, seat: Seat | None) -> bool:
        """Cancels the propagation that runs; returns whether there was one."""
        held = self.held(seat)
        if held.running is None or not held.is_busy:
            return False
        held.running.cancel.set()
        return True

    def file_work(self, seat: Seat | None, kind: str, work: Callable[[Held], Result]) -> Result:
        """Runs work on files, and waits for it."""
        held = self.held(seat)
        job = self.context.files.submit(kind, held.session_id, lambda: work(held), Urgency.PROMPT)
        result: Result = wait(job)
        return result

    def new_folder(self, seat: Seat) -> Path:
        """Makes an unguessable folder for files that a session's user downloads."""
        folder = self.folder / f"{seat.session_id}-{secrets.token_urlsafe(16)}"
        folder.mkdir(mode=0o700, parents=True)
        return folder

    def release(self, seat: Seat | None) -> None:
        """Ends a session with its files and downloads; one that has gone is passed over."""
        if seat is None:
            return
        with suppress(Problem):  # it has expired
            self.context.sessions.close(self.held(seat).session_id)
        for folder in self.folder.glob(f"{seat.session_id}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def seated(self, visit: str | None, kind: str, seat: Seat) -> None:
        """Notes which session a visit to the page uses in a tab."""
        if visit is not None:
            self._visits.setdefault(visit, {})[kind] = seat

    def left(self, visit: str | None) -> None:
        """Lets the sessions of a visit end soon: its connection is gone, and so is the browser.

        Where it was the connection alone, the page's next sign of life keeps them.
        """
        now, limits = self.context.settings.clock(), self.context.settings
        for seat in self._visits.pop(visit or "", {}).values():
            with suppress(Problem):
                self.held(seat).alive_s = now - limits.heartbeat_s + LEFT_S


def wait(job: Job) -> Any:
    """Waits for a job and returns its result.

    Raises:
        Problem: It failed or was cancelled.
    """
    job.finished.wait()
    if job.problem is not None:
        raise job.problem
    if job.state == "cancelled":
        raise Problem(409, "It was cancelled.")
    return job.result


def _with_rate(seat: Seat, source: Path, wanted: float) -> Seat:
    """Chooses which frames of a video are used."""
    rate = stated_rate(source) or USUAL_RATE
    every = max(1, round(rate / wanted)) if wanted > 0 else 1
    return replace(seat, every=every, rate=rate / every)
