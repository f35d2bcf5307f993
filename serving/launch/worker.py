"""One of several processes that answer, and what it and the supervisor tell each other."""

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
from serving.launch.listening import listen
from serving.observability import Observations, start_tracing

Scores = dict[tuple[str, str], Float[np.ndarray, " b"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """From a worker: its threads are there, and it waits for `Answer`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """From a worker, each second and when `/metrics` is asked for.

    Args:
        families: all of its metrics.
        scores: OOD scores since the report before, by model's name and fingerprint.
        ticket: of the request for `/metrics` that waits for `Exposed`.
    """

    families: tuple[Metric, ...]
    scores: Scores
    ticket: int | None = None
    accept: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """To a worker: take connections, until SIGTERM."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Complete:
    """To a worker: whether every process answers."""

    complete: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Exposed:
    """To a worker: what `/metrics` says of all processes."""

    ticket: int
    content: bytes
    kind: str


_EVERY = 1.0  # seconds between reports
_EXPOSED_WITHIN = 8.0  # seconds; Prometheus waits for 10


def work(
    channel: Connection,
    others: Sequence[Connection],
    sockets: Sequence[socket],
    bundles: Bundles,
) -> None:
    """Answer from models that the supervisor has loaded, until SIGTERM or its end.

    Args:
        channel: to the supervisor.
        others: the supervisor's ends, inherited; open, they would hide its end.
        sockets: listened on by all processes together.
        bundles: loaded.
    """
    for each in others:
        each.close()
    # These come to the whole terminal; the supervisor decides.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until it listens there is no request
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
        channel.send(Ready())
        while not isinstance(message := channel.recv(), Answer):
            if isinstance(message, Complete):
                app.state.complete = message.complete
    except (EOFError, OSError):
        return  # the supervisor is gone
    listen(sockets, deadline=bundles.settings.deadline)


class Link:
    """A worker's end of the pipe, on its event loop."""

    def __init__(self, channel: Connection, application: FastAPI) -> None:
        self._channel = channel
        self._app = application
        self._tickets = itertools.count()
        self._waiting: dict[int, asyncio.Future[Exposed]] = {}
        self._sending = asyncio.Lock()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Report and listen to the supervisor, to the end of the block."""
        # A thread, for the loop would make the pipe non-blocking, and messages that come
        # in pieces look like its end.
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, args=(loop,), daemon=True).start()
        task = asyncio.create_task(self._report_again_and_again())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._report()

    async def exposed(self, accept: str) -> tuple[bytes, str]:
        """Return what `/metrics` says of all processes, and its content type.

        Raises:
            TimeoutError: the supervisor is busy, such as with loading a bundle.
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

    async def _report_again_and_again(self) -> Never:
        while True:
            await asyncio.sleep(_EVERY)
            await self._report()

    async def _report(self, ticket: int | None = None, accept: str = "") -> None:
        report = Report(
            families=tuple(self._app.state.metrics.registry.collect()),
            scores=self._app.state.observations.taken(),
            ticket=ticket,
            accept=accept,
        )
        # In a thread: it waits while the supervisor is busy.
        with suppress(OSError):
            async with self._sending:
                await asyncio.to_thread(self._channel.send, report)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand what the supervisor says to the loop, to the end of either."""
        with suppress(RuntimeError):  # the loop is closed
            while True:
                try:
                    message = self._channel.recv()
                except (EOFError, OSError):
                    os.kill(os.getpid(), signal.SIGTERM)  # no supervisor: finish and end
                    return
                loop.call_soon_threadsafe(self._hear, message)

    def _hear(self, message: Answer | Complete | Exposed) -> None:
        match message:
            case Complete(complete=complete):
                self._app.state.complete = complete
            case Exposed(ticket=ticket) if ticket in self._waiting:
                waiting = self._waiting[ticket]
                if not waiting.done():
                    waiting.set_result(message)
            case Answer() | Exposed():
                pass  # nobody waits for it any more
