"""Prompts, objects, undo and redo, and encoding ahead."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from medsam2_ft.errors import UserError
from medsam2_ft.serve.context import Context, Shared, change, regions_to_json
from medsam2_ft.serve.core import SegmentationSession
from medsam2_ft.serve.history import Region
from medsam2_ft.serve.jobs import Urgency
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.routes.sessions import Lease
from medsam2_ft.serve.said import drawn_regions, slice_prompt
from medsam2_ft.serve.schemas import AxisNumber, Edits, Index, NewPrompt, ObjectId, SliceChoice
from medsam2_ft.serve.sessions import Held
from medsam2_ft.serve.wire import mask_to_json
from medsam2_ft.volume_prompts import frames_along

routes = APIRouter(prefix="/sessions/{session_id}")


@routes.post("/view")
def view(context: Shared, session_id: str, asked: SliceChoice, lease: Lease = None) -> Response:
    """Encodes the slice that is shown, so that a prompt there is quick."""
    held = context.sessions.get(session_id, lease)
    core = held.ready()
    core.check_slice(asked.axis, asked.index)

    def work() -> dict[str, Any]:
        core.encode(asked.axis, asked.index)
        return {"axis": asked.axis, "index": asked.index}

    for job in list(context.inference.jobs.values()):
        if job.owner == session_id and job.kind == "view":
            job.cancel.set()  # the user has gone on to another slice
    job = context.inference.submit("view", session_id, work, Urgency.VIEW, core.lock)
    return context.accepted(job)


@routes.post("/prompts")
def prompt(context: Shared, session_id: str, asked: NewPrompt, lease: Lease = None) -> Response:
    """Segments a slice, or corrects its mask."""
    held = context.sessions.get(session_id, lease)
    said = slice_prompt(asked)

    def work(core: SegmentationSession) -> dict[str, Any]:
        regions = core.prompt(asked.object_id, asked.axis, said)
        mask = frames_along(core.mask(asked.object_id), asked.axis)[asked.index]
        return {
            "revision": core.history.revision,
            "object_id": asked.object_id,
            "axis": asked.axis,
            "index": asked.index,
            "voxels": int(mask.sum()),
            "mask": mask_to_json(mask),
            "regions": regions_to_json(regions),
            "can_undo": core.history.can_undo,
            "can_redo": core.history.can_redo,
        }

    return context.answer(context.submit(held, "prompt", work))


@routes.post("/edits")
def edit(context: Shared, session_id: str, asked: Edits, lease: Lease = None) -> Response:
    """Takes over what the user drew by hand."""
    held = context.sessions.get(session_id, lease)
    regions = drawn_regions(asked, held.idle().shape)
    return _changed(context, held, "edit", lambda core: core.edit(regions))


@routes.delete("/prompts")
def remove_prompt(
    context: Shared,
    session_id: str,
    object_id: Annotated[ObjectId, Query()],
    axis: Annotated[AxisNumber, Query()],
    index: Annotated[Index, Query()],
    lease: Lease = None,
) -> Response:
    """Takes back the prompts of a slice, and its mask."""
    held = context.sessions.get(session_id, lease)
    return _changed(
        context, held, "remove", lambda core: core.remove_prompt(object_id, axis, index)
    )


@routes.delete("/objects/{object_id}")
def remove_object(
    context: Shared, session_id: str, object_id: int, lease: Lease = None
) -> Response:
    """Removes an object."""
    held = context.sessions.get(session_id, lease)
    return _changed(context, held, "remove", lambda core: core.remove_object(object_id))


@routes.post("/undo")
def undo(context: Shared, session_id: str, lease: Lease = None) -> Response:
    """Takes the last step back."""
    held = context.sessions.get(session_id, lease)
    return _changed(context, held, "undo", lambda core: _or_conflict(core.undo))


@routes.post("/redo")
def redo(context: Shared, session_id: str, lease: Lease = None) -> Response:
    """Does again what was undone."""
    held = context.sessions.get(session_id, lease)
    return _changed(context, held, "redo", lambda core: _or_conflict(core.redo))


def _changed(
    context: Context,
    held: Held,
    kind: str,
    work: Callable[[SegmentationSession], list[Region]],
) -> Response:
    """Answers with what a change has changed."""
    return context.answer(context.submit(held, kind, lambda core: change(core, work(core))))


def _or_conflict(work: Callable[[], list[Region]]) -> list[Region]:
    """Nothing to undo is 409: the request itself is fine."""
    try:
        return work()
    except UserError as error:
        raise Problem(409, str(error)) from error
