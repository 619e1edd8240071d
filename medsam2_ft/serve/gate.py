"""What stands before all routes: the token, and limits of bodies."""

import hmac
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medsam2_ft.serve import login
from medsam2_ft.serve.login import PAGE
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
        refusal = await self._refusal(scope, receive, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
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

    async def _refusal(self, scope: Scope, receive: Receive, headers: Headers) -> Response | None:
        """What is answered instead; None lets the request pass."""
        path, token = scope["path"], self.settings.token
        if not _is_own_origin(headers):
            return response(Problem(403, "Another page may not use this server."))
        if path in _OPEN or self._has_token(headers):
            return None
        assert token is not None
        if scope["type"] == "http" and path == login.ENTER and scope["method"] == "POST":
            return await login.enter(Request(scope, receive), token)
        in_page = path == PAGE or path.startswith(f"{PAGE}/")
        if in_page and login.has_ticket(headers, token):
            return None
        if (in_page or path == "/") and "text/html" in headers.get("accept", ""):
            return login.ask() if in_page else RedirectResponse(f"{PAGE}/")
        problem = Problem(401, "The token is missing or wrong.", "Authorization: Bearer TOKEN")
        return response(problem)

    def _has_token(self, headers: Headers) -> bool:
        if self.settings.token is None:
            return True
        given = headers.get("authorization", "")
        wanted = f"Bearer {self.settings.token}"
        return hmac.compare_digest(wanted.encode(), given.encode("utf-8", "surrogateescape"))

    def _limit(self, path: str) -> int:
        if "/data/" in path:
            return self.settings.chunk_bytes + self.settings.chunk_bytes // 100 + _SPARE_BYTES
        if path.endswith(("/file", "/segment/volume", f"{PAGE}/gradio_api/upload")):
            return self.settings.max_upload_bytes + _SPARE_BYTES
        return _JSON_BYTES


def _is_own_origin(headers: Headers) -> bool:
    """Whether a browser sends this from the server's own page; clients without one say nothing."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")
