"""What bodies may take while they arrive and are worked on: time, and memory together."""

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

_SLOW = 64 * 1024  # bytes a second: a body below that gives way to another client's
_WINDOW = 2.0  # seconds in which its rate is taken
_RECENT = 10.0  # seconds in which what became free says when more will
_LONGEST = 30.0  # seconds that a client is told to wait, at most


class NoRoomError(Exception):
    """There is no room for more of a body, and nobody gives way.

    Args:
        reason: `memory`, all of it is held; `client`, this client has its share.
        held: bytes, by whoever has too many.
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
class Body:
    """A request's body on its way.

    Args:
        client: whose it is.
        began: when, in seconds of the loop's clock.
        give_way: cuts it off.
    """

    client: str
    began: float
    give_way: Callable[[], None]
    bytes: int = 0
    over: bool = False  # it gave way: nothing of it is held any more
    _last: float = field(init=False)
    _marks: deque[tuple[float, int]] = field(init=False)  # when it had so many bytes

    def __post_init__(self) -> None:
        self._last = self.began
        self._marks = deque([(self.began, 0)], maxlen=2)

    def add(self, size: int, now: float) -> None:
        """Count what came."""
        if now - self._marks[-1][0] > _WINDOW:
            self._marks.append((now, self.bytes))
        self._last = now
        self.bytes += size

    def rate(self, now: float) -> float:
        """Return the bytes a second of late; infinite while that cannot be told."""
        if now - self._last > _WINDOW:
            return 0.0
        since, had = self._marks[0]
        lasted = now - since
        return (self.bytes - had) / lasted if lasted > _WINDOW else float("inf")


class Held:
    """All bodies; on one event loop, so without a lock.

    Where there is no room, bodies that come slowly give way, the slowest first. So who
    sends much and then nothing keeps others out for two seconds at most.

    Args:
        limit: bytes of all bodies at a time.
        share: bytes of one client's.
    """

    def __init__(self, limit: int, share: int) -> None:
        self.total = 0
        self._limit = limit
        self._share = share
        self._clients: dict[str, int] = {}  # bytes
        self._arriving: set[Body] = set()
        self._freed: deque[tuple[float, int]] = deque()  # when so many bytes became free

    def begin(self, body: Body) -> None:
        """Take in a body that begins to arrive."""
        self._arriving.add(body)

    def add(self, body: Body, size: int, now: float) -> None:
        """Take in `size` more bytes of a body.

        Raises:
            NoRoomError: there is no room for them.
        """
        if body.over:
            return
        own = self._clients.get(body.client, 0)
        alone = own == body.bytes  # it has a limit of its own, on one body
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

    def complete(self, body: Body) -> None:
        """Hear that a body is all there; it gives way no more."""
        self._arriving.discard(body)

    def release(self, body: Body, now: float) -> None:
        """Let go of a body, once its request is answered."""
        self._arriving.discard(body)
        if body.over:
            return
        body.over = True
        self._count(body.client, -body.bytes)
        self._freed.append((now, body.bytes))
        while self._freed[0][0] < now - _RECENT:
            self._freed.popleft()

    def _cut_off(
        self, excess: int, now: float, new: Body, within: str | None = None
    ) -> bool:
        """Cut slow bodies off to free `excess` bytes; none of them if that is too many."""
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
                    each.give_way()
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
        """Return in how many seconds so many bytes are free, as it went of late."""
        freed = sum(size for when, size in self._freed if when >= now - _RECENT)
        return min(_LONGEST, excess * _RECENT / freed) if freed else _WINDOW


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
