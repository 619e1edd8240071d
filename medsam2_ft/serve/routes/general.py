"""What the server is and can do."""

from typing import Any

from fastapi import APIRouter

from medsam2_ft import __version__
from medsam2_ft.serve.context import Context
from medsam2_ft.serve.settings import NOTICE
from medsam2_ft.serve.wire import DTYPES, PROTOCOL_VERSION


def router(context: Context) -> APIRouter:
    """Returns the routes."""
    routes = APIRouter()
    engine, settings = context.engine, context.settings

    @routes.get("/health")
    def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "version": __version__,
            "protocol": PROTOCOL_VERSION,
            "models": len(engine.entries()),
        }

    @routes.get("/capabilities")
    def capabilities() -> dict[str, Any]:
        models = [
            {
                "id": entry.model_id,
                "image_size": entry.image_size,
                "strategy": entry.strategy,
                "strategies": ["box", "memory"],
                "origin": entry.origin,
                "sha256": entry.sha256,
                "loaded": engine.is_loaded(entry.model_id),
            }
            for entry in engine.entries().values()
        ]
        return {
            "protocol": PROTOCOL_VERSION,
            "version": __version__,
            "device": engine.device,
            "default_model": engine.default_model,
            "models": models,
            "prompts": ["box", "points", "mask"],
            "kinds": ["image", "volume", "video"],
            "dtypes": list(DTYPES),
            "formats": ["nii.gz", "nrrd", "npz", "bits"],
            "accept": settings.accept_dir is not None,
            "limits": {
                "voxels": settings.max_voxels,
                "sessions": settings.max_sessions,
                "objects": settings.max_objects,
                "queue": settings.max_queue,
                "upload_bytes": settings.max_upload_bytes,
                "chunk_bytes": settings.chunk_bytes,
            },
            "timeouts": {
                "idle_s": settings.idle_s,
                "heartbeat_s": settings.heartbeat_s,
                "request_s": settings.request_s,
            },
            "notice": NOTICE,
        }

    return routes
