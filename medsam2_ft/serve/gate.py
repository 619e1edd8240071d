"""What stands before all routes: the token, and limits of bodies."""

import hmac

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medsam2_ft.serve.problems import Problem, response
from medsam2_ft.serve.settings import Settings

_OPEN = ("/api/v1/health",)
_JSON_BYTES = 8 << 20
_SPARE_BYTES = 64 << 10


class Gate:
    """ASGI middleware that refuses requests without the token, and bodies that are too large.

    Args:
        app: What lies behind.
        settings: Token and limits.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request pass, or answers it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["path"] not in _OPEN and not self._has_token(headers):
            problem = Problem(401, "The token is missing or wrong.", "Authorization: Bearer TOKEN")
            await response(problem)(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            problem = Problem(413, f"The body has more than {limit} bytes.", "See limits.")
            await response(problem)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413, f"The body has more than {limit} bytes.")
            return message

        await self.app(scope, counted, send)

    def _has_token(self, headers: Headers) -> bool:
        if self.settings.token is None:
            return True
        given = headers.get("authorization", "")
        wanted = f"Bearer {self.settings.token}"
        return hmac.compare_digest(wanted.encode(), given.encode("utf-8", "surrogateescape"))

    def _limit(self, path: str) -> int:
        if "/data/" in path:
            return self.settings.chunk_bytes + self.settings.chunk_bytes // 100 + _SPARE_BYTES
        if path.endswith(("/file", "/segment/volume")):
            return self.settings.max_upload_bytes + _SPARE_BYTES
        return _JSON_BYTES
