"""Results: downloads, and training cases."""

from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response

from medsam2_ft.serve.context import Shared
from medsam2_ft.serve.jobs import Urgency
from medsam2_ft.serve.results import accept, bits, labels_file
from medsam2_ft.serve.routes.sessions import Lease
from medsam2_ft.serve.schemas import Accept

routes = APIRouter(prefix="/sessions/{session_id}")


@routes.get("/masks")
def masks(
    context: Shared,
    session_id: str,
    format: Literal["nii.gz", "nrrd", "npz", "bits"] = "nii.gz",
    overlap: Literal["first", "keep"] = "first",
    lease: Lease = None,
) -> Response:
    """Returns all masks."""
    held = context.sessions.get(session_id, lease)
    core = held.ready()

    def work() -> Any:
        if format == "bits":
            return bits(core)
        return labels_file(held, format, keep=overlap == "keep")

    return context.answer(context.files.submit("masks", session_id, work, Urgency.PROMPT))


@routes.post("/accept", status_code=201)
def save(context: Shared, session_id: str, asked: Accept, lease: Lease = None) -> Response:
    """Saves image and masks as a training case."""
    held = context.sessions.get(session_id, lease)
    held.ready()
    folder = context.settings.accept_dir

    def work() -> dict[str, Any]:
        return accept(held, folder, asked.names)

    job = context.files.submit("accept", session_id, work, Urgency.PROMPT)
    return context.answer(job, status=201)
