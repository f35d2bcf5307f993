"""Errors as `application/problem+json` (RFC 9457), for every route.

A route raises `ProblemError`, often through one of the functions below that make the
usual ones. `install_handlers` turns it, and the errors of other layers, into responses.
`ForeignErrors` adds the fields that clients of other protocols expect.
"""

import asyncio
import json
import logging
import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from isogon.errors import ImageProblem
from isogon.images import ACCEPTED
from serving.api.schemas import Problem
from serving.batching import (
    ClosedError,
    DeadlineError,
    NoMemoryError,
    QueueFullError,
    RefusedImageError,
)
from serving.models import UnknownModelError
from serving.settings import Settings

MEDIA_TYPE = "application/problem+json"

_STATUS = {
    ImageProblem.UNDECODABLE: HTTPStatus.BAD_REQUEST,
    ImageProblem.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ImageProblem.UNSUPPORTED: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}

_ANY_BYTES = {"application/octet-stream", "binary/octet-stream"}  # S3 has the latter

_log = logging.getLogger("isogon.serving")


class ProblemError(Exception):
    """A request is refused; `index` is the image it is about, if it is about one."""

    def __init__(
        self, status: HTTPStatus, detail: str, *, index: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.index = index


def problem_response(
    status: int,
    detail: str,
    index: int | None = None,
    *,
    close: bool = False,
    retry_after: float | None = None,
) -> Response:
    """Return the response for a problem.

    Args:
        status: of HTTP.
        detail: what was expected, what came, what to do.
        index: which image it is about.
        close: close the connection after it.
        retry_after: seconds after which the client may try again, rounded up.
    """
    problem = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, index=index
    )
    headers = {"connection": "close"} if close else {}
    if retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(retry_after)))
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def require_size(size: int, index: int, settings: Settings) -> None:
    """Raise a 413 `ProblemError` if an encoded image has too many bytes."""
    if size > settings.max_image_bytes:
        raise ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"images[{index}] has {size:,} bytes, more than the limit of "
            f"{settings.max_image_bytes:,}. Send a smaller file.",
            index=index,
        )


def require_image_type(declared: str, name: str, index: int) -> None:
    """Raise a 415 `ProblemError` if an image is declared as something else.

    An image declared as `application/octet-stream`, or not at all, is accepted: the
    decoder looks at its bytes.
    """
    kind = declared.split(";")[0].strip().lower()
    if kind and not kind.startswith("image/") and kind not in _ANY_BYTES:
        raise bad_type(f"{name} is declared as {kind[:80]}. Send {ACCEPTED}.", index)


def bad_field(detail: str, index: int | None = None) -> ProblemError:
    """Return the 422 for a field that is missing, unknown or malformed."""
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, index=index)


def bad_content_type(kind: str, remedy: str) -> ProblemError:
    """Return the 415 for a body whose type is missing, or not one that the route takes."""
    found = f"The content type is {kind[:80]!r}" if kind else "There is no content type"
    return bad_type(f"{found}. {remedy}")


def bad_type(detail: str, index: int | None = None) -> ProblemError:
    """Return the 415 for a type that is not accepted."""
    return ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, index=index)


def too_many(settings: Settings) -> ProblemError:
    """Return the 413 for more images than a request may hold."""
    return ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"A request may hold {settings.max_images} images. Send the rest in another.",
    )


def install_handlers(app: FastAPI) -> None:
    """Make `app` answer every error with a problem."""

    @app.exception_handler(ProblemError)
    async def refuse(_: Request, error: ProblemError) -> Response:
        # The rest of an oversized body is not read, so the connection has to be closed.
        close = error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        return problem_response(error.status, error.detail, error.index, close=close)

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
        status, wait = HTTPStatus.TOO_MANY_REQUESTS, error.retry_after
        return problem_response(status, str(error), retry_after=wait)

    @app.exception_handler(ClosedError)
    async def closed(_: Request, error: ClosedError) -> Response:
        return _unavailable(str(error))

    @app.exception_handler(NoMemoryError)
    async def no_memory(_: Request, error: NoMemoryError) -> Response:
        return _unavailable(str(error))

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
        response = problem_response(error.status_code, _detail(request, error))
        response.headers.update(error.headers or {})
        return response

    app.add_middleware(CatchAll)


def _detail(request: Request, error: HTTPException) -> str:
    """Return the detail; for an unknown path or method it names those that exist."""
    path = request.url.path
    if error.status_code == HTTPStatus.NOT_FOUND:
        paths = request.app.openapi()["paths"]
        near = get_close_matches(path, paths, n=1)
        remedy = (
            f"Did you mean {near[0]}?" if near else f"The paths are {', '.join(paths)}."
        )
        return f"There is nothing at {path[:80]}. {remedy}"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{path[:80]} takes {allowed}, not {request.method[:20]}."
    return str(error.detail)


def _unavailable(detail: str) -> Response:
    return problem_response(HTTPStatus.SERVICE_UNAVAILABLE, detail, retry_after=1)


class CatchAll:
    """Turn an unexpected error into a 500 problem, and keep the connection open.

    An exception handler for `Exception` would not do that: it answers, but raises the
    error again. uvicorn then closes the keep-alive connection, and the client's next
    request fails.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on and catch what it raises."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            # The client has gone. Logs and metrics count 499, as nginx does.
            if not started:
                await Response(status_code=499)(scope, receive, watched)
        except asyncio.CancelledError:
            if scope["type"] != "http" or started:
                raise
            response = _unavailable(
                "The service ended before it could answer. Send the request again in a "
                "moment."
            )
            await response(scope, receive, watched)
        except Exception:
            if scope["type"] != "http" or started:
                raise
            _log.exception("A request failed because of an error in the service")
            response = problem_response(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "The service failed on this request. Its log has the reason.",
            )
            await response(scope, receive, send)


CompleteProblem = Callable[[dict[str, Any]], None]  # adds fields to a problem's document


class ForeignErrors:
    """Add fields to the problems of some paths, for clients of other protocols.

    This middleware must be outside of every layer that can refuse a request.

    Args:
        app: the application inside.
        completions: what adds the fields, by the beginning of the path.
    """

    def __init__(self, app: ASGIApp, completions: Mapping[str, CompleteProblem]) -> None:
        self._app = app
        self._completions = completions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, and complete the problem if it ends in one."""
        complete = None if scope["type"] != "http" else self._completion(scope["path"])
        if complete is None:
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def completed(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_problem(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    problem = json.loads(body)
                    complete(problem)
                    content = json.dumps(problem).encode()
                    headers = MutableHeaders(raw=start["headers"])
                    headers["content-length"] = str(len(content))
                    await send(start)
                    await send({"type": "http.response.body", "body": content})

        await self._app(scope, receive, completed)

    def _completion(self, path: str) -> CompleteProblem | None:
        for begin, complete in self._completions.items():
            if path.startswith(begin):
                return complete
        return None


def _is_problem(start: Message) -> bool:
    found = MutableHeaders(raw=start["headers"]).get("content-type", "")
    return found.startswith(MEDIA_TYPE)
