"""HTTP to the server, with the standard library alone; no other file knows of it.

Every failure is a ``ServerError`` whose text says what is wrong and what to do, in one line.
"""

import ipaddress
import json
import socket
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Optional, Union
from urllib.parse import urlsplit

from .wire import PROTOCOL_VERSION

TIMEOUT_S = 30.0
RETRIES = 4
LONGEST_PAUSE_S = 10.0
PREFIX = "/api/v1"
_SCHEMES = ("http", "https")


class ServerError(Exception):
    """The server refused, or was not there.

    Args:
        message: Problem and remedy, one line.
        status: HTTP status; 0 where there was no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(ServerError):
    """No server answers at this address."""


class TimedOut(ServerError):
    """The server did not answer in time."""


class WrongToken(ServerError):
    """The token is missing or wrong."""


class LostSession(ServerError):
    """The server no longer holds the session: it expired, or the server was started anew."""


class NoModel(ServerError):
    """The server has no model."""


class Stopped(ServerError):
    """The user closed the module while a request was waiting."""


@dataclass(frozen=True)
class Answer:
    """What the server sent.

    Attributes:
        status: HTTP status below 400.
        body: Its bytes.
    """

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ServerError: It is none: another program answers at this address.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise ServerError(
                "The answer is not that of a medsam2-ft server: check address and port."
            ) from error


def check_url(url: str) -> str:
    """Returns a server's address without what follows host and port.

    Raises:
        ServerError: It is no address.
    """
    text = url.strip()
    if "://" not in text:
        text = "http://" + text
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or any(letter.isspace() for letter in host) or parts.scheme not in _SCHEMES:
        raise ServerError(f"{url.strip()!r} is no address: give http://127.0.0.1:7860, or another.")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port is None else f":{port}")


def is_loopback(url: str) -> bool:
    """Whether an address is this machine, so that nothing leaves it."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Token and image go to the address that the user gave and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Client:
    """One server, as one user sees it. Blocks: use it in the background.

    Args:
        url: Such as ``http://127.0.0.1:7860``.
        token: Where the server asks for one.
        timeout_s: For one request.
        stop: Ends waiting for a busy server.

    Raises:
        ServerError: The address is none.
    """

    def __init__(
        self,
        url: str,
        token: str = "",
        timeout_s: float = TIMEOUT_S,
        stop: Optional[threading.Event] = None,
    ) -> None:
        self.url = check_url(url)
        self.token = token.strip()
        self.timeout_s = timeout_s
        self.lease = ""
        self.stop = threading.Event() if stop is None else stop
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if is_loopback(self.url):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def capabilities(self) -> dict[str, Any]:
        """Asks what the server can do.

        Raises:
            ServerError: It is not there, another token, another protocol.
        """
        health = self.call("GET", "/health").json
        if not isinstance(health, dict) or health.get("protocol") != PROTOCOL_VERSION:
            found = health.get("protocol") if isinstance(health, dict) else None
            raise ServerError(
                f"The server speaks protocol {found}, this module {PROTOCOL_VERSION}: "
                "install the same version of both."
            )
        found = self.call("GET", "/capabilities").json
        return dict(found)

    def call(
        self,
        method: str,
        path: str,
        body: Union[bytes, dict[str, Any], None] = None,
        headers: Optional[dict[str, str]] = None,
    ) -> Answer:
        """Sends one request; waits and asks again where the server is busy.

        Raises:
            ServerError: See the classes above.
        """
        for attempt in range(RETRIES + 1):
            try:
                return self._send(method, path, body, headers or {})
            except urllib.error.HTTPError as error:
                problem = _problem(error)
                pause = error.headers.get("Retry-After") or ""
                error.close()
                busy = error.code == 503 and pause.isdecimal() and not isinstance(problem, NoModel)
                if not busy or attempt == RETRIES:
                    raise problem from None
                if self.stop.wait(min(float(pause), LONGEST_PAUSE_S)):
                    raise Stopped("Stopped while waiting for the server.") from None
        raise AssertionError("unreachable")

    def _send(
        self,
        method: str,
        path: str,
        body: Union[bytes, dict[str, Any], None],
        headers: dict[str, str],
    ) -> Answer:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + PREFIX + path, data, method=method)
        if data is not None:
            kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
            request.add_header("Content-Type", kind)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        if self.lease:
            request.add_header("X-Lease", self.lease)
        for name, value in headers.items():
            request.add_header(name, value)
        try:
            with self._opener.open(request, timeout=self.timeout_s) as answer:
                return Answer(answer.status, answer.read())
        except urllib.error.HTTPError:
            raise
        except (OSError, ValueError) as error:
            raise self._no_answer(error) from error
        except Exception as error:  # http.client's own, such as BadStatusLine
            raise Unreachable(
                f"{self.url} does not speak HTTP ({type(error).__name__}): check address and port."
            ) from error

    def _no_answer(self, error: Exception) -> ServerError:
        reason = getattr(error, "reason", error)
        if isinstance(reason, (socket.timeout, TimeoutError)):
            return TimedOut(
                f"{self.url} has not answered within {self.timeout_s:.0f} s: look whether it still "
                "runs and is not overloaded, then try again."
            )
        if isinstance(reason, (BrokenPipeError, ConnectionResetError)):
            return Unreachable(
                f"{self.url} closed the connection: it stopped, or refused so much data; try again."
            )
        said = getattr(reason, "strerror", None) or str(reason)
        return Unreachable(
            f"{self.url} cannot be reached ({said}): start it with 'medsam2-ft serve', or correct "
            "the address."
        )


def _problem(error: urllib.error.HTTPError) -> ServerError:
    """Turns an answer that is no success into an exception."""
    try:
        fields = json.loads(error.read() or b"{}")
        detail, hint = str(fields.get("detail", "")), str(fields.get("hint", ""))
    except (ValueError, AttributeError, OSError):
        detail, hint = "", ""
    said = " ".join(f"{detail} {hint}".split()) or f"The server answered {error.code}."
    if error.code == 401:
        return WrongToken("The server refuses the token: enter the one it was started with.", 401)
    if error.code == 410 or (error.code == 404 and ("session" in detail or "job" in detail)):
        return LostSession("The server no longer has this session.", error.code)
    if error.code == 503 and "no model" in detail:
        return NoModel("The server has no model: whoever runs it, run 'medsam2-ft weights'.", 503)
    if 300 <= error.code < 400:
        return ServerError("The server sends to another address: enter that one.", error.code)
    return ServerError(said, error.code)
