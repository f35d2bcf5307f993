"""Memory for decoding: large images share it and wait for it; small images do not wait."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Self

from isogon.images import DecodingCost
from isogon.runtimes.device import usable_cores
from isogon.runtimes.memory import machine_memory, resident_memory
from serving.settings import Settings

SMALL_BYTES = 32 * 2**20  # a photograph of four megapixels
_SMALL_WORK = 16_000_000  # pixels x passes over them: a tenth of a second

_COPIES = 2  # of a body in memory: as received, and its images
_SPARE = 1 / 32  # of the machine's memory, for what is not counted
_LEAST = 128 * 2**20  # bytes: a photograph of 16 megapixels


class Ticket:
    """A large image's place in the queue for memory.

    Args:
        size: bytes that it takes.
        call: is called, on any thread, when the bytes are reserved. It returns whether
            they are still needed.
    """

    def __init__(self, size: int, call: Callable[["Ticket"], bool]) -> None:
        self.size = size
        self.call = call


class LargeImageError(Exception):
    """An image is large and has to wait for memory before it is decoded."""

    def __init__(self, cost: DecodingCost) -> None:
        super().__init__()
        self.cost = cost


class Room:
    """Memory shared by the large images of all models: first come, first served.

    Memory for small images is not counted here: `SMALL_BYTES` for each thread are already
    taken off `size`.

    Args:
        size: bytes for all large images at a time.
        most: large images at a time. If it is less than the number of threads, one thread
            is always left for small images.
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
        """Return this process's share of the memory that models and bodies leave."""
        cores = settings.cores or usable_cores()
        machine = machine_memory()
        own = _COPIES * settings.held_bytes + (cores + 1) * SMALL_BYTES
        # Forked processes share it.
        left = machine - resident_memory() - int(_SPARE * machine)
        size = settings.max_decoding_bytes or max(_LEAST, left // settings.processes - own)
        return cls(size, most=cores)

    @property
    def used(self) -> int:
        """Bytes reserved for large images now."""
        return self._used

    def admit(self, cost: DecodingCost) -> None:
        """Do nothing for a small image.

        Raises:
            LargeImageError: the image is large.
        """
        if cost.bytes > SMALL_BYTES or cost.work > _SMALL_WORK:
            raise LargeImageError(cost)

    def enter(self, ticket: Ticket) -> None:
        """Join the queue; `ticket.size` must not be more than `size`."""
        with self._lock:
            self._line.append(ticket)
        self._call()

    def leave(self, ticket: Ticket) -> None:
        """Give back the bytes of a ticket that was called."""
        with self._lock:
            self._used -= ticket.size
            self._count -= 1
        self._call()

    def _call(self) -> None:
        """Call the tickets that have room, outside the lock: they take their own locks."""
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
