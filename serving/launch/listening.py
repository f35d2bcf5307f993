"""One process that listens: the BentoML service without BentoML's supervisor.

uvicorn bounds no header there: each piece of an endless one is joined to those before,
which takes time by the square and memory without end, and one connection stops the
process. h11 has a bound, and answers half as many requests (`docs/reliability.md`).
"""

import asyncio
import math
import select
import signal
from asyncio import TimerHandle, Transport
from collections.abc import Sequence
from http import HTTPStatus
from socket import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.api.problems import problem_response
from serving.bento.service import Isogon

_MOST = 64 * 1024  # bytes of a request line with its headers, or between parts of a body
_HEAD_WITHIN = 30.0  # seconds for all of a request's head, once a connection is open


class BoundedHttp(HttpToolsProtocol):
    """Refuses an endless or slow head, endless trailers and endless chunk extensions."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._unproductive = 0  # bytes since a head or a piece of a body was complete
        self._in_head = True
        self._head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Give the client some time for its first request."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timer, which holds the connection."""
        self._expect_no_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, as long as it leads to something."""
        self._unproductive += len(data)
        if self._unproductive > _MOST + len(data):
            return self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"The request's head, or what stands between the parts of its body, has "
                f"more than {_MOST:,} bytes. Send fewer or shorter headers.",
            )
        super().data_received(data)
        if self._in_head and self._head_timer is None and self._unproductive:
            self._expect_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._in_head = False
        self._unproductive = 0
        self._expect_no_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of its body is."""
        self._unproductive = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is; what comes is another one's head."""
        self._unproductive = 0
        super().on_message_complete()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_WITHIN, self._too_late)

    def _expect_no_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_late(self) -> None:
        self._head_timer = None
        if not self._unproductive:
            return self.transport.close()  # nothing was asked
        self._refuse(
            HTTPStatus.REQUEST_TIMEOUT,
            f"The request's head did not arrive within {_HEAD_WITHIN:g} s.",
        )

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer outside of the application, if nothing else is being answered; close."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            response = problem_response(status, detail, close=True)
            lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
            lines += [name + b": " + value for name, value in response.raw_headers]
            self.transport.write(b"\r\n".join([*lines, b"", response.body]))
        self.transport.close()


# Once the service is told to end, accepted requests have their deadline and this to be
# answered. Whoever kills it after a time of their own has to leave it so long.
BEYOND_DEADLINE = 5  # seconds
KEPT_ALIVE = 75  # seconds; proxies keep an idle connection for 60 and want to end it
_LINGER = 1.0  # seconds


class _Server(uvicorn.Server):
    """Ends without losing a request that is on its way.

    uvicorn closes its sockets at once, and the kernel resets the connections that wait
    there; and it closes idle connections, whatever their clients have just sent. Here the
    former are accepted, and the latter stay for a moment, and are told in their next
    answer that it was the last.
    """

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Accept what waits, answer what comes over open connections, close them."""
        await _accepted(sockets or [])
        for server in self.servers:
            server.close()
        state = self.server_state
        state.default_headers.append((b"connection", b"close"))
        end = asyncio.get_running_loop().time() + _LINGER
        while state.connections and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


async def _accepted(sockets: Sequence[socket]) -> None:
    """Return when no connection waits to be accepted, which the event loop does."""
    waiting = select.poll()
    for each in sockets:
        waiting.register(each, select.POLLIN)
    end = asyncio.get_running_loop().time() + _LINGER
    while waiting.poll(0) and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.001)


def listen(sockets: Sequence[socket], *, deadline: float) -> None:
    """Answer until SIGTERM or SIGINT, finish what was accepted, and return.

    The models are loaded before. BentoML's supervisor would import all of it in a second
    process, hand signals on, and start that process again where it ends; here signals
    arrive where the models are.

    Args:
        sockets: bound; they are listened on from now on.
        deadline: seconds that a request may take.
    """
    server = _Server(
        uvicorn.Config(
            Isogon.to_asgi(),  # type: ignore[attr-defined]
            http=BoundedHttp,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEPT_ALIVE,
            timeout_graceful_shutdown=math.ceil(deadline) + BEYOND_DEADLINE,
        )
    )
    # uvicorn's own handlers come later, and in the end the signal is raised once more.
    # Neither may end the process, nor be lost.
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, server.handle_exit)
    server.run(sockets=list(sockets))
