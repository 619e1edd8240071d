"""The HTTP application. docs/protocol.md describes it for those who write clients."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

from medsam2_ft import __version__
from medsam2_ft.serve import problems
from medsam2_ft.serve.context import Context
from medsam2_ft.serve.engine import Engine
from medsam2_ft.serve.gate import Gate
from medsam2_ft.serve.routes import general, jobs, masks, prompts, sessions, stateless
from medsam2_ft.serve.settings import NOTICE, Settings

PREFIX: Final = "/api/v1"
_SWEEP_S: Final = 5.0


def create_app(engine: Engine, settings: Settings) -> FastAPI:
    """Makes the application.

    Args:
        engine: The models.
        settings: Limits, token, folders.

    Returns:
        The application; ``app.state.context`` is what routes that others add can share. Its
        files and threads go when it is shut down.

    Raises:
        UserError: The folder of the sessions cannot be used.
    """
    context = Context(engine, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweep = asyncio.create_task(_expire(context))
        yield
        sweep.cancel()
        with suppress(asyncio.CancelledError):
            await sweep
        await run_in_threadpool(context.shut_down)

    app = FastAPI(
        title="medsam2-ft",
        version=__version__,
        description=NOTICE,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.context = context
    problems.install(app)
    for part in (general, sessions, prompts, jobs, masks, stateless):
        app.include_router(part.routes, prefix=PREFIX)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(settings.hosts))
    return app


async def _expire(context: Context) -> None:
    """Releases sessions whose clients have gone, also when no request comes."""
    while True:
        await asyncio.sleep(_SWEEP_S)
        await run_in_threadpool(context.sessions.expire)
