"""A worker: one of several processes that answer, and its messages with the supervisor.

The worker sends `WorkerReady` and `WorkerReport`. The supervisor sends `StartAnswering`,
`ServiceComplete` and `SummedMetrics`.
"""

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from socket import socket
from typing import Never

import numpy as np
from fastapi import FastAPI
from jaxtyping import Float
from prometheus_client.core import Metric

from serving.bento.service import answer_from, app
from serving.bundles import Bundles
from serving.launch.accepting import ConnectionCount
from serving.launch.listening import listen
from serving.observability import Observations, start_tracing

_EVERY = 1.0  # seconds between reports
_EXPOSED_WITHIN = 8.0  # seconds; Prometheus waits for 10
Scores = dict[tuple[str, str], Float[np.ndarray, " b"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerReady:
    """From a worker: its threads run, and it waits for `StartAnswering`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerReport:
    """From a worker, every second and when it is asked for `/metrics`.

    Args:
        families: all of its metrics.
        scores: OOD scores since the last report, by the model's name and fingerprint.
        ticket: of a request for `/metrics` that waits for `SummedMetrics`.
        accept: the Accept header of that request.
    """

    families: tuple[Metric, ...]
    scores: Scores
    ticket: int | None = None
    accept: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartAnswering:
    """To a worker: accept connections, until SIGTERM."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceComplete:
    """To a worker: whether every process answers."""

    complete: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SummedMetrics:
    """To a worker: the answer to `/metrics`, summed over all processes."""

    ticket: int
    content: bytes
    kind: str


def work(
    channel: Connection,
    others: Sequence[Connection],
    sockets: Sequence[socket],
    bundles: Bundles,
    count: ConnectionCount,
) -> None:
    """Answer from models that the supervisor has loaded, until SIGTERM or until it ends.

    Args:
        channel: to the supervisor.
        others: the supervisor's pipe ends, inherited; closed here, or this worker would
            not notice when the supervisor ends.
        sockets: shared by all processes.
        bundles: loaded.
        count: of this process's connections.
    """
    for each in others:
        each.close()
    # The terminal sends these to all processes; the supervisor handles them.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it has no requests yet
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    start_tracing(app)
    observations: Observations = app.state.observations
    observations.pass_on()
    answer_from(bundles)
    link = Link(channel, app)
    app.state.beside = link.open()
    app.state.expose = link.exposed
    try:
        channel.send(WorkerReady())
        while not isinstance(message := channel.recv(), StartAnswering):
            if isinstance(message, ServiceComplete):
                app.state.complete = message.complete
    except (EOFError, OSError):
        return  # the supervisor is gone
    listen(sockets, deadline=bundles.settings.deadline, count=count)


class Link:
    """A worker's end of the pipe, on its event loop."""

    def __init__(self, channel: Connection, application: FastAPI) -> None:
        self._channel = channel
        self._app = application
        self._tickets = itertools.count()
        self._waiting: dict[int, asyncio.Future[SummedMetrics]] = {}
        self._sending = asyncio.Lock()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Send reports and receive messages, until the end of the block."""
        # In a thread: the loop would make the pipe non-blocking, and a message that arrives
        # in pieces would look like the end of the pipe.
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, args=(loop,), daemon=True).start()
        task = asyncio.create_task(self._keep_reporting())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._report()

    async def exposed(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics of all processes, and their content type.

        Raises:
            TimeoutError: the supervisor is busy, for example loading a bundle.
        """
        ticket = next(self._tickets)
        answer = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        try:
            await self._report(ticket, accept)
            async with asyncio.timeout(_EXPOSED_WITHIN):
                found = await answer
        finally:
            del self._waiting[ticket]
        return found.content, found.kind

    async def _keep_reporting(self) -> Never:
        while True:
            await asyncio.sleep(_EVERY)
            await self._report()

    async def _report(self, ticket: int | None = None, accept: str = "") -> None:
        report = WorkerReport(
            families=tuple(self._app.state.metrics.registry.collect()),
            scores=self._app.state.observations.taken(),
            ticket=ticket,
            accept=accept,
        )
        # In a thread: it blocks while the supervisor is busy.
        with suppress(OSError):
            async with self._sending:
                await asyncio.to_thread(self._channel.send, report)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand the supervisor's messages to the event loop, until either ends."""
        with suppress(RuntimeError):  # the loop is closed
            while True:
                try:
                    message = self._channel.recv()
                except (EOFError, OSError):
                    os.kill(os.getpid(), signal.SIGTERM)  # the supervisor has ended
                    return
                loop.call_soon_threadsafe(self._hear, message)

    def _hear(self, message: StartAnswering | ServiceComplete | SummedMetrics) -> None:
        match message:
            case ServiceComplete(complete=complete):
                self._app.state.complete = complete
            case SummedMetrics(ticket=ticket) if ticket in self._waiting:
                waiting = self._waiting[ticket]
                if not waiting.done():
                    waiting.set_result(message)
            case StartAnswering() | SummedMetrics():
                pass  # nothing waits for it any more
