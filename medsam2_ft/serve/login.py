"""How a browser, which cannot send a bearer token by itself, gets into the page."""

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

PAGE: Final = "/ui"
ENTER: Final = f"{PAGE}/enter"
_COOKIE: Final = "medsam2ft_page"
_MAX_FORM_BYTES: Final = 4096
_FORM: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>medsam2-ft</title>
<style>body {{ font-family: system-ui, sans-serif; max-width: 24rem; margin: 15vh auto; }}
input, button {{ font-size: 1rem; padding: .4rem; }}</style></head>
<body><h1>medsam2-ft</h1><p>{line}</p><form method="post" action="{action}">
<input type="password" name="token" aria-label="Token" autofocus required>
<button>Enter</button></form></body></html>"""
_ASK: Final = "Enter the token that the server was started with."


def ticket(token: str) -> str:
    """Returns what the cookie holds: proof of the token, and not the token itself."""
    return hmac.new(token.encode(), b"medsam2-ft page", hashlib.sha256).hexdigest()


def has_ticket(headers: Headers, token: str) -> bool:
    """Whether a request carries the cookie."""
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return False
    given = cookies[_COOKIE].value if _COOKIE in cookies else ""
    return hmac.compare_digest(ticket(token).encode(), given.encode("utf-8", "surrogateescape"))


def ask(line: str = _ASK) -> Response:
    """Returns the form that asks for the token."""
    return HTMLResponse(_FORM.format(line=line, action=ENTER), 401)


async def enter(request: Request, token: str) -> Response:
    """Answers the form: the cookie, or the form again."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_FORM_BYTES:
            return ask("That is no token.")
    fields = parse_qs(body.decode("utf-8", "replace"))
    given = fields.get("token", [""])[0].strip()
    if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode()):
        return ask("That is not the token. Try again.")
    answer = RedirectResponse(f"{PAGE}/", 303)
    answer.set_cookie(_COOKIE, ticket(token), path=PAGE, httponly=True, samesite="strict")
    return answer
