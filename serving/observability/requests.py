"""The outermost middleware: a request's id, trace span, metrics and log line."""

import logging
import random
import re
import time
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.observability.metrics import Metrics
from serving.settings import FOR_MACHINES

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from serving.observability.spans import Tracing

REQUEST_ID = "x-request-id"

_WELL_FORMED = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_LEFT = 499  # as in nginx's log; no status was sent
_FAILED = 500

_access = logging.getLogger("isogon.access")


@dataclass(slots=True)
class ServedRequest:
    """Facts about a request, collected while it is served."""

    id: str
    model: str | None = None
    key: str | None = None  # the name of its API key
    images: int = 0
    received: int = 0  # bytes of its body
    sent: int = 0
    status: int = _CLIENT_LEFT
    trace_id: str | None = None  # 32 hexadecimal digits, if it is traced


_current: ContextVar[ServedRequest | None] = ContextVar("request", default=None)


def current_request() -> ServedRequest | None:
    """Return the request that is being served here; None outside of requests."""
    return _current.get()


class Traced(Protocol):
    """An object with what traces requests, if they are traced."""

    tracing: "Tracing | None"


class ObserveRequests:
    """Gives each request an id, measures it, and logs it; also those that fail."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, traced: Traced) -> None:
        self._app = app
        self._metrics = metrics
        self._traced = traced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, then count and log it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        scope.pop("route", None)  # BentoML's mount; set again if a route of ours matches
        headers = Headers(scope=scope)
        request = ServedRequest(id=_request_id(headers))

        async def received() -> Message:
            message = await receive()
            request.received += len(message.get("body", b""))
            return message

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request.id
            request.sent += len(message.get("body", b""))
            await send(message)

        token = _current.set(request)
        started = time.perf_counter()
        with self._span(scope, headers) as span:
            try:
                if span is not None:
                    request.trace_id = f"{span.get_span_context().trace_id:032x}"
                await self._app(scope, received, answered)
            except Exception:
                request.status = _FAILED
                raise
            finally:
                self._note(scope, request, time.perf_counter() - started, span)
                _current.reset(token)

    def _span(
        self, scope: Scope, headers: Headers
    ) -> "AbstractContextManager[Span | None]":
        if (tracing := self._traced.tracing) is None:
            return nullcontext()
        return tracing.request(headers, _method(scope))

    def _note(
        self, scope: Scope, request: ServedRequest, seconds: float, span: "Span | None"
    ) -> None:
        method, route = _method(scope), _route(scope)
        self._metrics.requests.labels(method, route, str(request.status)).inc()
        self._metrics.request_seconds.labels(method, route).observe(seconds)
        if (tracing := self._traced.tracing) is not None and span is not None:
            tracing.describe(span, method, route, request)
        level = logging.DEBUG if route in FOR_MACHINES else logging.INFO
        if not _access.isEnabledFor(level):
            return
        fields: dict[str, Any] = {
            "method": method,
            "route": route,
            "status": request.status,
            "seconds": round(seconds, 6),
            "images": request.images,
            "model": request.model,
            "key": request.key,
            "request_bytes": request.received,
            "response_bytes": request.sent,
        }
        _access.log(level, "request", extra={"fields": fields})


def _request_id(headers: Headers) -> str:
    """Return the client's id if it is well-formed, else a new one."""
    given = headers.get(REQUEST_ID, "")
    return given if _WELL_FORMED.fullmatch(given) else f"{random.getrandbits(128):032x}"


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "other"


def _route(scope: Scope) -> str:
    """Return the template of the route that matched: a small set of values."""
    path = getattr(scope.get("route"), "path", None)
    if path is None and "endpoint" in scope:
        for route in scope["app"].routes:
            if getattr(route, "endpoint", getattr(route, "app", None)) is scope["endpoint"]:
                path = route.path
    return path if isinstance(path, str) else "unmatched"
