"""Propagation, and jobs that are polled."""

from collections.abc import Generator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from medsam2_ft.serve.context import Context, Shared, attachment, change, regions_to_json
from medsam2_ft.serve.jobs import Job, Payload, Urgency
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.routes.sessions import Lease
from medsam2_ft.serve.schemas import Propagation
from medsam2_ft.serve.sessions import Held


def _steps(held: Held, job: Job, asked: Propagation) -> Generator[None, None, dict[str, Any]]:
    core = held.ready()
    frames = core.propagate(
        axis=asked.axis,
        objects=asked.objects,
        start=asked.start,
        slices=None if asked.range is None else (asked.range[0], asked.range[1]),
        direction=asked.direction,
        strategy=asked.strategy,
        cancelled=job.cancel.is_set,
    )
    for frame in frames:
        job.total = frame.total
        job.frames.append((frame.index, regions_to_json(frame.regions)))
        job.done = frame.done
        yield
    return change(core, [])


def start_propagation(context: Context, held: Held, asked: Propagation) -> Job:
    """Queues a propagation.

    Raises:
        Problem: 409, one is running; 422, the range is upside down; 503, the queue is full.
    """
    with held.guard:
        core = held.idle()
        if asked.range is not None and asked.range[0] > asked.range[1]:
            raise Problem(422, "range is [first, last], first not above last.")
        job = Job("propagate", held.session_id)
        context.inference.start(job, _steps(held, job, asked), Urgency.STEP, core.lock)
        held.running = job
    return job


routes = APIRouter()


@routes.post("/sessions/{session_id}/propagate")
def propagate(
    context: Shared, session_id: str, asked: Propagation, lease: Lease = None
) -> Response:
    """Carries objects through the volume."""
    held = context.sessions.get(session_id, lease)
    return context.accepted(start_propagation(context, held, asked))


@routes.get("/jobs/{job_id}")
def poll(
    context: Shared,
    job_id: str,
    after: Annotated[int, Query(ge=0, le=1 << 31)] = 0,
    lease: Lease = None,
) -> dict[str, Any]:
    """Tells how far a job is, and what it found since."""
    return context.job(job_id, lease).to_json(context.settings.clock(), after)


@routes.get("/jobs/{job_id}/file")
def file(context: Shared, job_id: str, lease: Lease = None) -> Response:
    """Returns the file that a job made."""
    job = context.job(job_id, lease)
    if not isinstance(job.result, Payload):
        raise Problem(409, "The job has no file, or not yet.", "Poll it until it is done.")
    return attachment(job.result)


@routes.delete("/jobs/{job_id}")
def cancel(context: Shared, job_id: str, lease: Lease = None) -> Response:
    """Cancels a job between two frames."""
    job = context.job(job_id, lease)
    job.cancel.set()
    return context.accepted(job)
