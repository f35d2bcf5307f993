"""What bodies may take while they arrive and are worked on: time, and memory together."""

import asyncio
import ipaddress
import math
from functools import partial
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.problems import problem_response
from serving.limits.held import Body, Held, NoRoomError
from serving.models import Models
from serving.observability.metrics import Metrics
from serving.observability.requests import current_request
from serving.settings import Settings

_SHARE = 2  # a client may hold the limit divided by this
_HOST_BITS = 64  # of an IPv6 address: a host has all addresses of such a network


class UploadLimits:
    """Refuse a body with 408 if it comes too slowly, with 429 if there is no room for it.

    Only reading is timed, and only until the body is complete; what the service then
    does with it has its own deadline. Its bytes count towards ISOGON_MAX_HELD_BYTES from
    their arrival to the end of the answer; only received bytes count, not
    Content-Length. One client, a key or an address, may hold half of them. Where there
    is no room, bodies that arrive slowly are cut off, see `Held`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held: Held | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on with a body that is read within the limits."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        clock = asyncio.get_running_loop().time
        began = clock()
        reading = asyncio.timeout(None)
        body: Body | None = None
        complete = False

        async def limited() -> Message:
            nonlocal body, complete
            if complete:
                return await receive()
            settings = _settings(scope)
            held = self._held_within(scope, settings)
            if body is None:  # one clock for a body, which comes in pieces
                reading.reschedule(began + settings.upload_seconds)
                body = Body(_client(scope), began, partial(_cut_off, reading))
                held.begin(body)
            message = await receive()
            if size := len(message.get("body", b"")):
                try:
                    held.add(body, size, clock())
                except NoRoomError as error:
                    _metrics(scope).refused.labels(error.reason).inc()
                    raise _no_room(error) from error
            if not message.get("more_body", False):
                complete = True
                held.complete(body)
                reading.reschedule(None)
            return message

        try:
            async with reading:
                await self._app(scope, limited, send)
        except TimeoutError:
            if not reading.expired():
                raise
            gave_way = body is not None and body.over
            response = _too_slow(_settings(scope), gave_way)
            await response(scope, receive, send)
        finally:
            if body is not None and self._held is not None:
                self._held.release(body, clock())

    def _held_within(self, scope: Scope, settings: Settings) -> Held:
        if self._held is None:
            limit = settings.held_bytes
            share = max(settings.max_body_bytes, limit // _SHARE)
            held = self._held = Held(limit, share)
            metrics = _metrics(scope)
            metrics.held.set_function(lambda: held.total)
        return self._held


def _client(scope: Scope) -> str:
    """Return whose request it is: a key's name, or the address it comes from."""
    if (request := current_request()) is not None and request.key:
        return request.key
    address = scope["client"][0] if scope.get("client") else ""
    if ":" not in address:
        return str(address)
    try:
        return str(ipaddress.ip_network(f"{address}/{_HOST_BITS}", strict=False))
    except ValueError:
        return str(address)


def _cut_off(reading: asyncio.Timeout) -> None:
    reading.reschedule(asyncio.get_running_loop().time())


def _settings(scope: Scope) -> Settings:
    models: Models = scope["app"].state.models
    return models.settings


def _metrics(scope: Scope) -> Metrics:
    metrics: Metrics = scope["app"].state.metrics
    return metrics


def _too_slow(settings: Settings, gave_way: bool) -> Response:
    within = f"did not arrive within {settings.upload_seconds:g} s"
    return problem_response(
        HTTPStatus.REQUEST_TIMEOUT,
        f"The body {'arrived too slowly while others waited' if gave_way else within}. "
        f"Send fewer or smaller images.",
        close=True,
    )


def _no_room(error: NoRoomError) -> HTTPException:
    whose = "from this client " if error.reason == "client" else ""
    each = " for one client" if error.reason == "client" else ""
    return HTTPException(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"Bodies {whose}of {error.held:,} bytes are being worked on; the service holds "
        f"{error.limit:,}{each}. Send the request again later.",
        {
            "connection": "close",
            "retry-after": str(max(1, math.ceil(error.retry_after))),
        },
    )
