"""Errors as `application/problem+json`, so that a client can tell what to mend."""

import asyncio
import logging
import math
from difflib import get_close_matches
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from isogon.errors import ImageProblem
from serving.api.schemas import Problem
from serving.batching import (
    ClosedError,
    DeadlineError,
    NoMemoryError,
    QueueFullError,
    RefusedImageError,
)
from serving.models import UnknownModelError

MEDIA_TYPE = "application/problem+json"

_STATUS = {
    ImageProblem.UNDECODABLE: HTTPStatus.BAD_REQUEST,
    ImageProblem.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ImageProblem.UNSUPPORTED: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}

_log = logging.getLogger("isogon.serving")


class ProblemError(Exception):
    """A request that is refused, and why."""

    def __init__(
        self, status: HTTPStatus, detail: str, *, index: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.index = index


def problem_response(
    status: int, detail: str, index: int | None = None, close: bool = False
) -> Response:
    """Return the response that tells of a problem."""
    problem = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, index=index
    )
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={"connection": "close"} if close else None,
    )


def install_handlers(app: FastAPI) -> None:
    """Answer every error of `app` as a problem."""

    @app.exception_handler(ProblemError)
    async def refuse(_: Request, error: ProblemError) -> Response:
        # The rest of an oversized body is not read: the connection cannot go on.
        close = error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        return problem_response(error.status, error.detail, error.index, close)

    @app.exception_handler(RefusedImageError)
    async def refuse_image(_: Request, error: RefusedImageError) -> Response:
        status = _STATUS[error.problem]
        return problem_response(status, str(error), error.index)

    @app.exception_handler(UnknownModelError)
    async def unknown_model(_: Request, error: UnknownModelError) -> Response:
        return problem_response(HTTPStatus.NOT_FOUND, str(error))

    @app.exception_handler(QueueFullError)
    async def refuse_for_now(request: Request, error: QueueFullError) -> Response:
        request.app.state.metrics.refused.labels("queue").inc()
        return _later(HTTPStatus.TOO_MANY_REQUESTS, str(error), error.retry_after)

    @app.exception_handler(ClosedError)
    async def closed(_: Request, error: ClosedError) -> Response:
        return _later(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

    @app.exception_handler(NoMemoryError)
    async def no_memory(_: Request, error: NoMemoryError) -> Response:
        return _later(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

    @app.exception_handler(DeadlineError)
    async def late(_: Request, error: DeadlineError) -> Response:
        return problem_response(HTTPStatus.GATEWAY_TIMEOUT, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        detail = f"{where}: {first['msg']}, got {first.get('input')!r}."
        return problem_response(HTTPStatus.UNPROCESSABLE_ENTITY, detail)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        response = problem_response(error.status_code, _astray(request, error))
        response.headers.update(error.headers or {})
        return response

    app.add_middleware(CatchAll)


def _astray(request: Request, error: HTTPException) -> str:
    """Return the detail, which for a path or method that is not served says what is."""
    path = request.url.path
    if error.status_code == HTTPStatus.NOT_FOUND:
        paths = request.app.openapi()["paths"]
        near = get_close_matches(path, paths, n=1)
        remedy = f"Did you mean {near[0]}?" if near else f"There are {', '.join(paths)}."
        return f"There is nothing at {path[:80]}. {remedy}"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{path[:80]} takes {allowed}, not {request.method[:20]}."
    return str(error.detail)


def _later(status: HTTPStatus, detail: str, seconds: float = 1.0) -> Response:
    response = problem_response(status, detail)
    response.headers["retry-after"] = str(max(1, math.ceil(seconds)))
    return response


class CatchAll:
    """Turn an unforeseen error into a 500 problem inside the connection's life.

    An exception handler for `Exception` runs, but lets the error travel on: uvicorn
    then drops the keep-alive connection, and the client's next request fails.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on and catch what comes out of it."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            # Nobody reads it, but logs and metrics count it: as nginx does, with 499.
            if not started:
                await Response(status_code=499)(scope, receive, watched)
        except asyncio.CancelledError:
            if scope["type"] != "http" or started:
                raise
            response = _later(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "The service ended before it could answer. Ask again in a moment.",
            )
            await response(scope, receive, watched)
        except Exception:
            if scope["type"] != "http" or started:
                raise
            _log.exception("A request failed for a reason that is our fault")
            response = problem_response(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "The service failed on this request; its log says why.",
            )
            await response(scope, receive, send)
