"""Sessions: open, upload, look, keep alive, release."""

import secrets
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from medsam2_ft.serve.context import Context, Shared
from medsam2_ft.serve.geometry import to_matrix
from medsam2_ft.serve.jobs import Urgency
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.schemas import NewSession
from medsam2_ft.serve.sessions import Held
from medsam2_ft.serve.uploads import check_asked, load, safe_suffix, store_chunk, total_bytes
from medsam2_ft.serve.wire import chunk_count

Lease = Annotated[str | None, Header(alias="X-Lease")]


def describe(held: Held) -> dict[str, Any]:
    """Returns what GET /sessions/{id} answers."""
    core = held.core
    asked = held.asked
    return {
        "session_id": held.session_id,
        "state": held.state,
        "kind": asked.kind,
        "model": held.model,
        "strategy": asked.strategy if core is None else core.strategy,
        "shape": asked.shape if core is None else list(core.image.shape),
        "ijk_to_lps": to_matrix(held.geometry) if held.has_geometry else asked.ijk_to_lps,
        "objects": [] if core is None else list(core.objects),
        "prompts": []
        if core is None
        else [{"object_id": i, "axis": a, "index": n} for i, a, n in core.prompted],
        "can_undo": core is not None and core.history.can_undo,
        "can_redo": core is not None and core.history.can_redo,
        "revision": 0 if core is None else core.history.revision,
        "job_id": held.running.job_id if held.running is not None and held.is_busy else None,
        "intensity": None
        if held.rule is None
        else {"kind": held.rule.kind, "lower": held.rule.lower, "upper": held.rule.upper},
        "notes": list(held.notes),
    }


def _start_loading(context: Context, held: Held, file: Path | None) -> Response:
    def work() -> dict[str, Any]:
        load(held, context.engine, context.settings, file)
        return describe(held)

    try:
        job = context.files.submit("load", held.session_id, work, Urgency.PROMPT)
    except Problem:
        held.state = "empty"
        held.received.clear()
        raise
    return context.answer(job)


routes = APIRouter(prefix="/sessions")


@routes.post("", status_code=201)
def open_session(context: Shared, asked: NewSession) -> JSONResponse:
    """Opens a session; refuses what could not be held before it is uploaded."""
    check_asked(asked, context.settings)
    held = context.sessions.open(asked, context.model_id(asked.model))
    answer = {
        "session_id": held.session_id,
        "lease": held.lease,
        "state": held.state,
        "model": held.model,
        "strategy": asked.strategy,
        "chunk_bytes": context.settings.chunk_bytes,
        "chunks": chunk_count(total_bytes(asked), context.settings.chunk_bytes),
        "idle_s": context.settings.idle_s,
        "heartbeat_s": context.settings.heartbeat_s,
    }
    return JSONResponse(answer, 201)


@routes.put("/{session_id}/data/{number}")
async def chunk(
    context: Shared,
    session_id: str,
    number: int,
    request: Request,
    lease: Lease = None,
    sha256: Annotated[str | None, Header(alias="X-SHA256")] = None,
) -> Response:
    """Takes one chunk of the image."""
    held = context.sessions.get(session_id, lease)
    body = await request.body()
    complete = await run_in_threadpool(store_chunk, held, number, body, sha256, context.settings)
    if complete:
        return await run_in_threadpool(partial(_start_loading, context, held, None))
    total = chunk_count(total_bytes(held.asked), context.settings.chunk_bytes)
    return JSONResponse({"state": held.state, "received": len(held.received), "chunks": total})


@routes.put("/{session_id}/file")
async def file(
    context: Shared,
    session_id: str,
    request: Request,
    filename: Annotated[str, Header(alias="X-Filename")],
    lease: Lease = None,
) -> Response:
    """Takes the image as a file."""
    held = context.sessions.get(session_id, lease)
    if held.asked.shape is not None or held.state != "empty":
        raise Problem(409, "No file is expected.", "Leave shape and dtype out; send one file.")
    path = held.folder / f"{secrets.token_hex(8)}{safe_suffix(filename)}"
    try:
        with path.open("xb") as target:
            async for piece in request.stream():
                await run_in_threadpool(target.write, piece)
    except BaseException:  # a client that went away leaves nothing behind
        path.unlink(missing_ok=True)
        raise
    if not held.begin_loading():
        path.unlink(missing_ok=True)
        raise Problem(409, "No file is expected.", "Another one came first.")
    return await run_in_threadpool(partial(_start_loading, context, held, path))


@routes.get("/{session_id}")
def look(context: Shared, session_id: str, lease: Lease = None) -> dict[str, Any]:
    """Describes a session."""
    return describe(context.sessions.get(session_id, lease))


@routes.post("/{session_id}/heartbeat")
def heartbeat(context: Shared, session_id: str, lease: Lease = None) -> dict[str, Any]:
    """Keeps a session alive."""
    held = context.sessions.get(session_id, lease, heartbeat=True)
    return {"state": held.state, "expires_in_s": context.sessions.expires_in_s(held)}


@routes.delete("/{session_id}", status_code=204)
def release(context: Shared, session_id: str, lease: Lease = None) -> Response:
    """Releases a session with its files and jobs."""
    context.sessions.close(context.sessions.get(session_id, lease).session_id)
    return Response(status_code=204)
