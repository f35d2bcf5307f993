"""API keys: who may ask, and how often."""

import math
from http import HTTPStatus

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api.problems import problem_response
from serving.limits.keyring import Key, KeyRing
from serving.limits.rates import Rates
from serving.models import Models
from serving.observability.metrics import Metrics
from serving.observability.requests import current_request
from serving.paths import FOR_MACHINES
from serving.settings import Settings

# Probes and scrapers carry no keys; the page's files and the API's description hold
# nothing that is the model's.
_OPEN = FOR_MACHINES | {"/", "/openapi.json"}
_OPEN_FOLDER = "/page/"


class RequireKey:
    """Answer 401 to who shows no key of the operator's, 429 to one that asks too often.

    That is before the body is read. A key comes as `Authorization: Bearer KEY` or as
    `X-API-Key: KEY`; logs and metrics know it by its name.

    Args:
        app: what answers who may ask.
        rates: of all keys, made before processes are forked.
    """

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self._app = app
        self._rates = rates
        self._ring: KeyRing | None = None
        self._settings: Settings | None = None  # that the ring is of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on if it shows a key, needs none, or none are set."""
        if scope["type"] != "http" or _is_open(scope["path"]):
            return await self._app(scope, receive, send)
        application: FastAPI = scope["app"]
        ring = self._ring_of(application.state.models)
        if ring is None:
            return await self._app(scope, receive, send)
        key = ring.find(_shown(Headers(scope=scope)))
        if key is None:
            return await _unknown()(scope, receive, send)
        if (request := current_request()) is not None:
            request.key = key.name
        wait = self._rates.wait(key)
        metrics: Metrics = application.state.metrics
        metrics.keys.labels(key.name, "refused" if wait else "accepted").inc()
        answering = _too_often(key, wait) if wait else self._app
        return await answering(scope, receive, send)

    def _ring_of(self, models: Models) -> KeyRing | None:
        if self._settings is not models.settings:
            self._settings = models.settings
            self._ring = KeyRing.of(models.settings)
        return self._ring


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_FOLDER)


def _shown(headers: Headers) -> list[str]:
    """Return every key that a request shows."""
    keys = headers.getlist("x-api-key")
    for value in headers.getlist("authorization"):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            keys.append(key.strip())
    return keys


def _unknown() -> Response:
    response = problem_response(
        HTTPStatus.UNAUTHORIZED,
        "This service asks for an API key, and the request shows none that it knows. "
        "Send `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
    )
    response.headers["www-authenticate"] = "Bearer"
    return response


def _too_often(key: Key, wait: float) -> Response:
    assert key.rate is not None
    seconds = math.ceil(wait)
    response = problem_response(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"The key {key.name!r} may send {key.rate.per_second:g} requests a second, and "
        f"{key.rate.burst} at once. Send the request again after {seconds} s.",
    )
    response.headers["retry-after"] = str(seconds)
    return response
