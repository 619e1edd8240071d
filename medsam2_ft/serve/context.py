"""What all routes share: the engine, sessions and workers of one application."""

import hmac
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import JSONResponse, Response

from medsam2_ft.serve.core import SegmentationSession
from medsam2_ft.serve.engine import Engine
from medsam2_ft.serve.history import Region
from medsam2_ft.serve.jobs import Job, Payload, Urgency, Worker
from medsam2_ft.serve.problems import Problem, response
from medsam2_ft.serve.sessions import Held, Sessions
from medsam2_ft.serve.settings import Settings
from medsam2_ft.serve.wire import region_to_json


class Context:
    """One application's state.

    Args:
        engine: The models.
        settings: Limits.

    Raises:
        UserError: The sessions' folder cannot be used.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.inference = Worker(settings, "inference")
        self.files = Worker(settings, "files")
        self.sessions = Sessions(settings, (self.inference, self.files))

    def model_id(self, asked: str | None) -> str:
        """Returns the model of a request.

        Raises:
            Problem: 404, no such model; 503, none at all.
        """
        chosen = asked or self.engine.default_model
        if chosen is None:
            raise Problem(
                503,
                "The server has no model.",
                "Put weights into its folder checkpoints: medsam2-ft weights.",
            )
        if chosen not in self.engine.entries():
            raise Problem(404, "There is no such model.", "GET /capabilities lists them.")
        return chosen

    def submit(self, held: Held, kind: str, work: Callable[[SegmentationSession], Any]) -> Job:
        """Runs a prompt or another change of a session, before all propagation.

        Raises:
            Problem: 409, no image yet or a propagation is running; 503, the queue is full.
        """
        core = held.idle()

        def run() -> Any:
            held.idle()  # a propagation may have begun while it waited
            return work(core)

        return self.inference.submit(kind, held.session_id, run, Urgency.PROMPT, core.lock)

    def answer(self, job: Job, status: int = 200) -> Response:
        """Returns a job's result if it comes soon, else 202 and the job."""
        if not job.finished.wait(self.settings.request_s):
            return self.accepted(job)
        if job.problem is not None:
            return response(job.problem)
        if job.state == "cancelled":
            return response(Problem(409, "It was cancelled."))
        if isinstance(job.result, Payload):
            return attachment(job.result)
        return JSONResponse(job.result, status)

    def accepted(self, job: Job) -> Response:
        """Returns 202 and the job."""
        fields = job.to_json(self.settings.clock())
        if job.lease is not None:
            fields["lease"] = job.lease
        return JSONResponse(fields, 202)

    def job(self, job_id: str, lease: str | None) -> Job:
        """Returns a client's job.

        Raises:
            Problem: 404, no such job, or another's; 410, its session has expired.
        """
        job = self.inference.jobs.get(job_id) or self.files.jobs.get(job_id)
        if job is None:
            raise Problem(404, "There is no such job.", "It may have gone with its session.")
        if job.lease is None:
            self.sessions.get(job.owner, lease)
        elif not hmac.compare_digest(job.lease.encode(), (lease or "").encode()):
            raise Problem(404, "There is no such job.", "Check X-Lease.")
        return job

    def shut_down(self) -> None:
        """Ends threads and removes files."""
        self.inference.close()
        self.files.close()
        self.sessions.shut_down()


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Shared = Annotated[Context, Depends(_context)]
"""Parameter of a route: the application's state."""


def attachment(payload: Payload) -> Response:
    """Returns a file."""
    return Response(
        payload.content,
        media_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="{payload.name}"'},
    )


def change(core: SegmentationSession, regions: list[Region]) -> dict[str, Any]:
    """Returns what changed, as JSON holds it."""
    return {
        "revision": core.history.revision,
        "regions": regions_to_json(regions),
        "objects": list(core.objects),
        "can_undo": core.history.can_undo,
        "can_redo": core.history.can_redo,
    }


def regions_to_json(regions: list[Region] | tuple[Region, ...]) -> list[dict[str, Any]]:
    """Returns regions as JSON holds them."""
    return [region_to_json(region.object_id, region.mask, region.offset) for region in regions]
