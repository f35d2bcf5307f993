"""Accepting connections, evenly over several processes.

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
_TOLERATED = 8  # one connection more for every eight is not ahead
_AT_ONCE = 64  # connections, before the event loop does other work
_MOMENT = 0.002  # seconds that another process has to accept first
_MOMENTS = 25
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
        """Whether a process that accepts has clearly fewer open connections."""
        own = int(self._counts[self._place])
        accepting = self._counts[self._counts != _NOT_ACCEPTING]
        return bool(accepting.size and accepting.min() < own - own // _TOLERATED)

    def begin(self) -> None:
        """Note that this process accepts connections and has none."""
        self._counts[self._place] = 0

    def opened(self) -> None:
        """Note a connection."""
        self._counts[self._place] += 1

    def closed(self) -> None:
        """Note the end of a connection."""
        if self._counts[self._place] > 0:
            self._counts[self._place] -= 1

    def end(self) -> None:
        """Note that this process accepts no more connections."""
        self._counts[self._place] = _NOT_ACCEPTING


class Acceptor:
    """Accepts the connections of sockets, from `start` until `stop`.

    Args:
        sockets: bound.
        protocol: makes the protocol of a connection, which notes its end in `count`.
        count: of this process's connections.
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
        self._accepting: list[asyncio.Task[None]] = []
        self._connecting: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listen on the sockets."""
        self._count.begin()
        for each in self._sockets:
            each.setblocking(False)
            each.listen(BACKLOG)
            self._accepting.append(asyncio.create_task(self._keep_accepting(each)))

    async def stop(self) -> None:
        """Accept the connections that wait, which the kernel would reset; then close.

        Later ones are refused at once, unless another process accepts them.
        """
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for each in self._sockets:
            with contextlib.suppress(OSError):
                while True:
                    self._accept(each)
            each.close()
        self._count.end()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    async def _keep_accepting(self, listening: socket) -> None:
        while True:
            await _readable(listening)
            for _ in range(_MOMENTS):
                if not self._count.ahead:
                    break
                await asyncio.sleep(_MOMENT)
            try:
                for _ in range(_AT_ONCE):
                    self._accept(listening)
                    if self._count.ahead:
                        break
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                pass  # another process accepted it, or the client has left
            except OSError:
                await asyncio.sleep(_AGAIN)

    def _accept(self, listening: socket) -> None:
        """Accept one connection.

        Raises:
            OSError: none waits, or there are no resources for it.
        """
        connection, _ = listening.accept()
        self._count.opened()
        task = asyncio.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket) -> None:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()
            self._count.closed()


async def _readable(listening: socket) -> None:
    """Return when a connection waits."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(listening, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(listening)
