"""Limits on request bodies: the time to arrive, and the memory of all bodies together.

`UploadLimits` is the middleware. It counts received bytes in `HeldBodies`, which refuses
more bytes when the memory is full, or cuts off bodies that arrive slowly.
"""

import asyncio
import ipaddress
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.problems import problem_response
from serving.models import Models
from serving.observability.metrics import Metrics
from serving.observability.requests import current_request
from serving.settings import Settings

_SLOW = 64 * 1024  # bytes a second; slower bodies are cut off when there is no room
_WINDOW = 2.0  # seconds over which the rate is measured
_RECENT = 10.0  # seconds; bytes released in them predict when there is room
_LONGEST = 30.0  # the most seconds of a Retry-After
_SHARE = 2  # one client may hold the limit divided by this
_HOST_BITS = 64  # of an IPv6 address; a host usually has a whole /64 network


class NoRoomError(Exception):
    """There is no room for more of a body, and cutting off slow bodies does not help.

    Args:
        reason: `memory`: all of it is used; `client`: this client uses all of its share.
        held: bytes that are held, of all clients or of this one.
        limit: bytes.
        retry_after: seconds after which there should be room.
    """

    def __init__(self, reason: str, held: int, limit: int, retry_after: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.held = held
        self.limit = limit
        self.retry_after = retry_after


@dataclass(eq=False, slots=True)
class IncomingBody:
    """A request's body, from its arrival to the end of the answer.

    Args:
        client: the key's name or the address that sends it.
        began: when it began, in seconds of the loop's clock.
        cut_off: stops reading it.
    """

    client: str
    began: float
    cut_off: Callable[[], None]
    bytes: int = 0
    over: bool = False  # answered or cut off: none of it is held any more
    _last: float = field(init=False)
    _marks: deque[tuple[float, int]] = field(init=False)  # (time, bytes at that time)

    def __post_init__(self) -> None:
        self._last = self.began
        self._marks = deque([(self.began, 0)], maxlen=2)

    def add(self, size: int, now: float) -> None:
        """Count `size` bytes that arrived."""
        if now - self._marks[-1][0] > _WINDOW:
            self._marks.append((now, self.bytes))
        self._last = now
        self.bytes += size

    def rate(self, now: float) -> float:
        """Return the recent rate in bytes a second; infinite if it is too early to tell."""
        if now - self._last > _WINDOW:
            return 0.0
        since, had = self._marks[0]
        lasted = now - since
        return (self.bytes - had) / lasted if lasted > _WINDOW else float("inf")


class HeldBodies:
    """All bodies held in memory; used on one event loop, so without a lock.

    If there is no room for more, slow bodies are cut off, the slowest first. So a client
    that stops sending blocks others for two seconds at most.

    Args:
        limit: bytes of all bodies at a time.
        share: bytes of one client's bodies at a time.
    """

    def __init__(self, limit: int, share: int) -> None:
        self.total = 0
        self._limit = limit
        self._share = share
        self._clients: dict[str, int] = {}  # bytes
        self._arriving: set[IncomingBody] = set()
        self._freed: deque[tuple[float, int]] = deque()  # (time, bytes released)

    def begin(self, body: IncomingBody) -> None:
        """Register a body that begins to arrive."""
        self._arriving.add(body)

    def add(self, body: IncomingBody, size: int, now: float) -> None:
        """Count `size` more bytes of a body.

        Raises:
            NoRoomError: there is no room for them.
        """
        if body.over:
            return
        own = self._clients.get(body.client, 0)
        alone = own == body.bytes  # one body has its own limit
        if own + size > self._share and not alone:
            excess = own + size - self._share
            if not self._cut_off(excess, now, body, within=body.client):
                raise NoRoomError("client", own, self._share, self._until(excess, now))
        if self.total + size > self._limit:
            excess = self.total + size - self._limit
            if not self._cut_off(excess, now, body):
                wait = self._until(excess, now)
                raise NoRoomError("memory", self.total, self._limit, wait)
        body.add(size, now)
        self._count(body.client, size)

    def complete(self, body: IncomingBody) -> None:
        """Note that a body has arrived; it is not cut off any more."""
        self._arriving.discard(body)

    def release(self, body: IncomingBody, now: float) -> None:
        """Release a body's bytes, once its request is answered or it is cut off."""
        self._arriving.discard(body)
        if body.over:
            return
        body.over = True
        self._count(body.client, -body.bytes)
        self._freed.append((now, body.bytes))
        while self._freed[0][0] < now - _RECENT:
            self._freed.popleft()

    def _cut_off(
        self, excess: int, now: float, new: IncomingBody, within: str | None = None
    ) -> bool:
        """Cut off slow bodies that free `excess` bytes; none if they do not suffice."""
        slow = sorted(
            (rate, body.began, id(body), body)
            for body in self._arriving
            if body is not new
            and within in (None, body.client)
            and (rate := body.rate(now)) < _SLOW
        )
        going = []
        for *_, body in slow:
            going.append(body)
            excess -= body.bytes
            if excess <= 0:
                for each in going:
                    self.release(each, now)
                    each.cut_off()
                return True
        return False

    def _count(self, client: str, size: int) -> None:
        self.total += size
        left = self._clients.get(client, 0) + size
        if left:
            self._clients[client] = left
        else:
            self._clients.pop(client, None)

    def _until(self, excess: int, now: float) -> float:
        """Return in how many seconds `excess` bytes should be free, at the recent rate."""
        freed = sum(size for when, size in self._freed if when >= now - _RECENT)
        return min(_LONGEST, excess * _RECENT / freed) if freed else _WINDOW


class UploadLimits:
    """Refuse a body with 408 if it arrives too slowly, with 429 if there is no room for it.

    Time is counted until the body is complete; the work that follows has its own deadline.
    A body's bytes count towards ISOGON_MAX_HELD_BYTES from their arrival to the end of the
    answer. Only received bytes count, not Content-Length. One client (a key or an address)
    may hold half of the limit. When there is no room, slow bodies are cut off.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held: HeldBodies | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on; reading its body keeps the limits."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        clock = asyncio.get_running_loop().time
        began = clock()
        reading = asyncio.timeout(None)
        body: IncomingBody | None = None
        complete = False

        async def limited() -> Message:
            nonlocal body, complete
            if complete:
                return await receive()
            settings = _settings(scope)
            held = self._held_within(scope, settings)
            if body is None:  # the first piece starts the clock
                reading.reschedule(began + settings.upload_seconds)
                body = IncomingBody(_client(scope), began, partial(_cut_off, reading))
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
            was_cut_off = body is not None and body.over
            response = _too_slow(_settings(scope), was_cut_off)
            await response(scope, receive, send)
        finally:
            if body is not None and self._held is not None:
                self._held.release(body, clock())

    def _held_within(self, scope: Scope, settings: Settings) -> HeldBodies:
        if self._held is None:
            limit = settings.held_bytes
            share = max(settings.max_body_bytes, limit // _SHARE)
            held = self._held = HeldBodies(limit, share)
            metrics = _metrics(scope)
            metrics.held.set_function(lambda: held.total)
        return self._held


def _client(scope: Scope) -> str:
    """Return who sent the request: a key's name, or the address."""
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


def _too_slow(settings: Settings, was_cut_off: bool) -> Response:
    within = f"did not arrive within {settings.upload_seconds:g} s"
    return problem_response(
        HTTPStatus.REQUEST_TIMEOUT,
        f"The body {'arrived too slowly while others waited' if was_cut_off else within}. "
        f"Send fewer or smaller images.",
        close=True,
    )


def _no_room(error: NoRoomError) -> HTTPException:
    whose = "from this client " if error.reason == "client" else ""
    each = " for one client" if error.reason == "client" else ""
    return HTTPException(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"Request bodies {whose}of {error.held:,} bytes are in memory; the limit is "
        f"{error.limit:,}{each}. Send the request again later.",
        {
            "connection": "close",
            "retry-after": str(max(1, math.ceil(error.retry_after))),
        },
    )
