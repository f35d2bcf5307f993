"""Accepting connections: one at a time, and evenly over several processes.

An event loop accepts every connection that waits. Of several processes that share a socket,
the first that wakes would take a whole burst, and the others would have nothing to do. Here
a process that has more open connections than another waits a moment before it accepts, so
that the other comes first.
"""

import asyncio
import contextlib
from asyncio import Protocol
from collections.abc import Callable, Sequence
from mmap import PAGESIZE, mmap
from socket import socket

import numpy as np
from jaxtyping import Int32

BACKLOG = 2048  # connections that wait to be accepted, as in uvicorn
_NOT_ACCEPTING = -1
_MOMENT = 0.002  # seconds that another process has to accept first
_MOMENTS = 5
_AGAIN = 0.1  # seconds after accept() failed, for example because no descriptor is free


class ConnectionTable:
    """The number of open connections of each process, in memory that forks share."""

    def __init__(self) -> None:
        self._counts = np.frombuffer(mmap(-1, PAGESIZE), np.int32)
        self._counts[:] = _NOT_ACCEPTING

    def at(self, place: int) -> "ConnectionCount":
        """Return the count of the process at a place, from 0 to 1023."""
        return ConnectionCount(self._counts, place)


class ConnectionCount:
    """The number of open connections of one process, beside those of the others."""

    def __init__(self, counts: Int32[np.ndarray, " processes"], place: int) -> None:
        self._counts = counts
        self._place = place

    @property
    def ahead(self) -> bool:
        """Whether a process that accepts has fewer open connections."""
        accepting = self._counts[self._counts != _NOT_ACCEPTING]
        return bool(accepting.size and accepting.min() < self._counts[self._place])

    def set(self, count: int) -> None:
        """Note how many connections are open."""
        self._counts[self._place] = count

    def end(self) -> None:
        """Note that this process accepts no more connections."""
        self._counts[self._place] = _NOT_ACCEPTING


class Acceptor:
    """Accepts the connections of sockets, from `start` until `stop`.

    Args:
        sockets: bound.
        protocol: makes the protocol of a connection.
        count: of this process's connections; its protocols keep it up to date.
    """

    def __init__(
        self,
        sockets: Sequence[socket],
        protocol: Callable[[], Protocol],
        count: ConnectionCount,
    ) -> None:
        self._sockets = sockets
        self._protocol = protocol
        self._count = count
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Listen on the sockets."""
        self._count.set(0)
        for each in self._sockets:
            each.setblocking(False)
            each.listen(BACKLOG)
            self._tasks.append(asyncio.create_task(self._keep_accepting(each)))

    async def stop(self) -> None:
        """Accept the connections that wait, which the kernel would reset, and no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in self._sockets:
            with contextlib.suppress(OSError):
                while True:
                    await self._accept(each)
        self._count.end()

    async def _keep_accepting(self, listening: socket) -> None:
        while True:
            await _readable(listening)
            for _ in range(_MOMENTS):
                if not self._count.ahead:
                    break
                await asyncio.sleep(_MOMENT)
            try:
                await self._accept(listening)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                pass  # another process accepted it, or the client has left
            except OSError:
                await asyncio.sleep(_AGAIN)

    async def _accept(self, listening: socket) -> None:
        """Accept one connection.

        Raises:
            OSError: none waits, or there are no resources for it.
        """
        connection, _ = listening.accept()
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        # Shielded: once accepted, a connection is answered, also while we stop.
        await asyncio.shield(
            asyncio.ensure_future(loop.connect_accepted_socket(self._protocol, connection))
        )


async def _readable(listening: socket) -> None:
    """Return when a connection waits."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(listening, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(listening)
