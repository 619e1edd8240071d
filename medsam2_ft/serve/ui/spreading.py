"""Propagation with progress, and its end before time."""

import time
from collections.abc import Iterator
from typing import Final, no_type_check

import gradio as gr

from medsam2_ft.serve.jobs import Job
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.schemas import Propagation
from medsam2_ft.serve.ui import picture
from medsam2_ft.serve.ui.desk import Seat, kindly
from medsam2_ft.serve.ui.tab import Tab, Updates, checked
from medsam2_ft.serve.ui.windows import Number

OWN_STRATEGY: Final = "auto"
_POLL_S: Final = 0.3


class SpreadActions:
    """Handlers of a tab that start or end a propagation.

    Args:
        tab: What it shows.
    """

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        self.desk = tab.desk
        self.parts = tab.parts

    @no_type_check  # a generator that is checked at run time no longer looks like one to Gradio
    def propagate(
        self,
        seat: Seat | None,
        object_id: int,
        axis: int,
        index: Number,
        first: Number,
        last: Number,
        direction: str,
        strategy: str,
    ) -> Iterator[Updates]:
        """Carries all objects that are prompted along this axis through the range."""
        began = time.monotonic()
        job = self._start(seat, axis, first, last, direction, strategy)
        try:
            yield {
                self.parts.progress: picture.progress_bar(0, 1, "waiting for the model"),
                self.parts.cancel: gr.Button(interactive=True),
                self.parts.propagate: gr.Button(interactive=False),
            }
            while not job.finished.wait(_POLL_S):
                if job.frames:
                    yield self._passing(seat, job, axis, object_id, began)
        finally:
            job.cancel.set()  # where the person has gone; without effect once it is over
        yield self._over(seat, job, axis, index, object_id, began)

    def cancel(self, seat: Seat | None) -> Updates:
        """Cancels the propagation; what it found stays."""
        with kindly():
            if not self.desk.cancel(seat):
                raise Problem(409, "No propagation is running.")
            return {self.parts.cancel: gr.Button(interactive=False)}

    def _start(
        self,
        seat: Seat | None,
        axis: int,
        first: Number,
        last: Number,
        direction: str,
        strategy: str,
    ) -> Job:
        with kindly():
            if first is None or last is None:
                raise Problem(422, "The range is not complete.", "Give its first and last slice.")
            asked = checked(
                Propagation,
                axis=axis,
                range=[int(first), int(last)],
                direction=direction,
                strategy=None if strategy == OWN_STRATEGY else strategy,
            )
            return self.desk.propagate(seat, asked)

    def _passing(self, seat: Seat, job: Job, axis: int, object_id: int, began: float) -> Updates:
        """Follows the propagation with the picture."""
        at = job.frames[-1][0]
        left = (time.monotonic() - began) / max(job.done, 1) * (job.total - job.done)
        text = f"{job.done} of {job.total}, about {left:.0f} s left"
        return {
            self.parts.progress: picture.progress_bar(job.done, job.total, text),
            self.parts.index: at,
            self.parts.canvas: self.tab.show(seat, axis, at, object_id),
        }

    def _over(
        self, seat: Seat, job: Job, axis: int, index: Number, object_id: int, began: float
    ) -> Updates:
        line = f"done: {job.total} in {time.monotonic() - began:.1f} s"
        if job.problem is not None:
            line = f"{job.problem.detail} {job.problem.hint}".strip()
            gr.Warning(line)
        elif job.state == "cancelled":
            line = f"cancelled after {job.done} of {job.total}; what was found stays (Undo)"
        with kindly():
            return {
                **self.tab.changed(seat, axis, index, object_id),
                self.parts.progress: picture.progress_bar(job.done, job.total, line),
                self.parts.cancel: gr.Button(interactive=False),
                self.parts.propagate: gr.Button(interactive=True),
            }
