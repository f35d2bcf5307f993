"""Memory for decoding: large images wait for one another, small ones pass."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Self

from isogon.images import DecodingCost
from isogon.runtimes.device import usable_cores
from serving.memory import machine_memory, resident_memory
from serving.settings import Settings

SMALL_BYTES = 32 * 2**20  # a photograph of four megapixels
_SMALL_WORK = 16_000_000  # passes over pixels: a tenth of a second

_COPIES = 2  # of a body, at most for long: as it came, and its images
_SPARE = 1 / 32  # of the machine's memory: for what nobody has counted
_LEAST = 128 * 2**20  # bytes: a photograph of 16 megapixels


class Ticket:
    """A large image's place in the line.

    Args:
        size: bytes that it takes.
        call: is told, on any thread, that the bytes are set aside. It returns whether
            they are still wanted.
    """

    def __init__(self, size: int, call: Callable[["Ticket"], bool]) -> None:
        self.size = size
        self.call = call


class LargeImageError(Exception):
    """An image that is to stand in line before it is decoded."""

    def __init__(self, cost: DecodingCost) -> None:
        super().__init__()
        self.cost = cost


class Room:
    """What large images share, those of all models: first come, first served.

    Memory for small ones is not counted here: whoever says `size` has set aside
    `SMALL_BYTES` for each thread.

    Args:
        size: bytes for all large images at a time.
        most: large images at a time. With fewer than there are threads, one thread is
            always left for the small.
    """

    def __init__(self, size: int, most: int) -> None:
        self.size = size
        self._most = most
        self._used = 0
        self._count = 0
        self._line: deque[Ticket] = deque()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return this process's share of what the machine has left beside the models."""
        cores = settings.cores or usable_cores()
        machine = machine_memory()
        own = _COPIES * settings.held_bytes + (cores + 1) * SMALL_BYTES
        left = machine - resident_memory() - int(_SPARE * machine)  # shared by a fork
        size = settings.max_decoding_bytes or max(_LEAST, left // settings.processes - own)
        return cls(size, most=cores)

    @property
    def used(self) -> int:
        """Bytes that are set aside for large images right now."""
        return self._used

    def admit(self, cost: DecodingCost) -> None:
        """Let a small image pass.

        Raises:
            LargeImageError: it is large.
        """
        if cost.bytes > SMALL_BYTES or cost.work > _SMALL_WORK:
            raise LargeImageError(cost)

    def enter(self, ticket: Ticket) -> None:
        """Stand in line; `ticket.size` must not be more than `size`."""
        with self._lock:
            self._line.append(ticket)
        self._call()

    def leave(self, ticket: Ticket) -> None:
        """Give back what was set aside for a ticket that was called."""
        with self._lock:
            self._used -= ticket.size
            self._count -= 1
        self._call()

    def _call(self) -> None:
        """Call whose turn it is; outside of the lock, for they have locks of their own."""
        while (ticket := self._next()) is not None:
            if not ticket.call(ticket):
                with self._lock:
                    self._used -= ticket.size
                    self._count -= 1

    def _next(self) -> Ticket | None:
        with self._lock:
            if not self._line or self._count == self._most:
                return None
            if self._used + self._line[0].size > self.size:
                return None
            ticket = self._line.popleft()
            self._used += ticket.size
            self._count += 1
            return ticket
