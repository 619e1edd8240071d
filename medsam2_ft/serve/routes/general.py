"""What the server is and can do."""

from typing import Any

from fastapi import APIRouter

from medsam2_ft import __version__
from medsam2_ft.serve.context import Shared
from medsam2_ft.serve.settings import NOTICE
from medsam2_ft.serve.wire import DTYPES, PROTOCOL_VERSION

routes = APIRouter()


@routes.get("/health")
def health(context: Shared) -> dict[str, Any]:
    """Whether the server answers; needs no token."""
    return {
        "status": "ok",
        "version": __version__,
        "protocol": PROTOCOL_VERSION,
        "models": len(context.engine.entries()),
    }


@routes.get("/capabilities")
def capabilities(context: Shared) -> dict[str, Any]:
    """Models, formats, limits and timeouts."""
    models = [
        {
            "id": entry.model_id,
            "image_size": entry.image_size,
            "strategy": entry.strategy,
            "strategies": ["box", "memory"],
            "origin": entry.origin,
            "sha256": entry.sha256,
            "loaded": context.engine.is_loaded(entry.model_id),
        }
        for entry in context.engine.entries().values()
    ]
    return {
        "protocol": PROTOCOL_VERSION,
        "version": __version__,
        "device": context.engine.device,
        "default_model": context.engine.default_model,
        "models": models,
        "prompts": ["box", "points", "mask"],
        "kinds": ["image", "volume", "video"],
        "dtypes": list(DTYPES),
        "formats": ["nii.gz", "nrrd", "npz", "bits"],
        "accept": context.settings.accept_dir is not None,
        "limits": {
            "voxels": context.settings.max_voxels,
            "sessions": context.settings.max_sessions,
            "objects": context.settings.max_objects,
            "queue": context.settings.max_queue,
            "upload_bytes": context.settings.max_upload_bytes,
            "chunk_bytes": context.settings.chunk_bytes,
        },
        "timeouts": {
            "idle_s": context.settings.idle_s,
            "heartbeat_s": context.settings.heartbeat_s,
            "request_s": context.settings.request_s,
        },
        "notice": NOTICE,
    }
