"""Errors of the API: RFC 9457 problem details, with a hint at what to do."""

import errno
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from medsam2_ft.errors import UserError
from medsam2_ft.serve.wire import WireError

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5


class Problem(Exception):  # noqa: N818 (RFC 9457 calls it so)
    """An answer that is no success.

    Args:
        status: HTTP status.
        detail: What is wrong, one sentence.
        hint: What to do about it.
    """

    def __init__(self, status: int, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.hint = hint

    def to_json(self) -> dict[str, Any]:
        """Returns the problem's fields."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "hint": self.hint,
        }

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the status."""
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return {"Retry-After": str(RETRY_AFTER_S)}
        return {"WWW-Authenticate": "Bearer"} if self.status == HTTPStatus.UNAUTHORIZED else {}


def as_problem(error: Exception) -> Problem:
    """Turns what the work raised into an answer.

    A defect becomes a 500 whose detail says nothing of the inside; its traceback is logged.
    """
    if isinstance(error, Problem):
        return error
    if (
        isinstance(error, UserError)
        and isinstance(error.__cause__, OSError)
        and _is_full(error.__cause__)
    ):
        error = error.__cause__
    if isinstance(error, UserError):
        return Problem(422, " ".join(str(error).split()))
    if isinstance(error, WireError):
        return Problem(400, str(error), "Send it again.")
    if isinstance(error, OSError) and _is_full(error):
        return Problem(507, "The server's disk is full.", "Tell who runs the server.")
    if isinstance(error, MemoryError):
        return Problem(503, "The server's memory is full.", "Try again later.")
    logger.error("A request failed.", exc_info=error)
    return Problem(500, "The server made a mistake.", "Its log says more.")


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def response(problem: Problem) -> JSONResponse:
    """Returns the answer."""
    return JSONResponse(
        problem.to_json(), problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


def install(app: FastAPI) -> None:
    """Lets every error of an app become a problem."""

    async def known(_: Request, error: Exception) -> JSONResponse:
        return response(as_problem(error))

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        damaged = first["type"] == "json_invalid"
        problem = Problem(400 if damaged else 422, f"{place}: {first['msg']}", "See the protocol.")
        return response(problem)

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        answer = response(Problem(error.status_code, str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer

    for kind in (Problem, UserError, WireError, OSError, MemoryError):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(Exception, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
