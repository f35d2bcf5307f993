"""API keys: who may ask."""

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api.problems import problem_response
from serving.models import Models

# Probes and scrapers carry no keys; the page's files and the API's description hold
# nothing that is the model's.
_OPEN = frozenset({"/livez", "/readyz", "/healthz", "/metrics", "/", "/openapi.json"})
_OPEN_FOLDER = "/page/"


class RequireKey:
    """Answer 401, before the body is read, to who shows none of ISOGON_API_KEYS.

    A key comes as `Authorization: Bearer KEY` or as `X-API-Key: KEY`. Digests are
    compared, all of them, each in constant time: the time taken tells nothing of a key,
    nor of which one came close.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on if it shows a key, needs none, or none are set."""
        if scope["type"] != "http" or _is_open(scope["path"]):
            return await self._app(scope, receive, send)
        models: Models = scope["app"].state.models
        keys = [key.get_secret_value() for key in models.settings.api_keys]
        if not keys or _is_known(shown_keys(Headers(scope=scope)), keys):
            return await self._app(scope, receive, send)
        response = problem_response(
            401,
            "This service asks for an API key, and the request shows none that it knows. "
            "Send `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
        )
        response.headers["www-authenticate"] = "Bearer"
        await response(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_FOLDER)


def shown_keys(headers: Headers) -> list[str]:
    """Return every key that a request shows."""
    keys = headers.getlist("x-api-key")
    for value in headers.getlist("authorization"):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            keys.append(key.strip())
    return keys


def _is_known(shown: list[str], keys: list[str]) -> bool:
    ours = [_digest(key) for key in keys]
    theirs = [_digest(key) for key in shown]
    # A list, not a generator: nothing is cut short.
    return any([hmac.compare_digest(a, b) for a in ours for b in theirs])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
