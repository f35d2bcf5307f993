"""Memory that bodies hold while they arrive and are worked on, shared between clients."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

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
