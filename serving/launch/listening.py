"""One process that listens: uvicorn with our application, without BentoML's supervisor.

`BoundedHttp` adds limits to uvicorn's httptools parser, which has none on headers: it
joins each piece of an endless header to those before. That takes quadratic time and
unlimited memory, so one connection can stop the process. The h11 parser has a limit, but
answers half as many requests (`docs/reliability.md`).
"""

import asyncio
import math
import signal
from asyncio import TimerHandle, Transport
from collections.abc import Sequence
from http import HTTPStatus
from socket import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.api.problems import problem_response
from serving.bento.service import IsogonService
from serving.launch.accepting import Acceptor, ConnectionCount, ConnectionTable

# After SIGTERM, accepted requests have their deadline and these seconds to be answered.
# Whoever kills the service after SIGTERM must wait at least as long.
BEYOND_DEADLINE = 5  # seconds
KEPT_ALIVE = 75  # seconds; proxies keep an idle connection for 60 and should end it first
_LINGER = 1.0  # seconds that open connections are served after SIGTERM
_MOST = 64 * 1024  # bytes of a request line and headers, or between two parts of a body
_HEAD_WITHIN = 30.0  # seconds for a request line and headers to arrive


def listen(
    sockets: Sequence[socket], *, deadline: float, count: ConnectionCount | None = None
) -> None:
    """Answer until SIGTERM or SIGINT, finish what was accepted, and return.

    The models are already loaded in this process, and signals arrive here. BentoML's
    supervisor would import everything again in a second process, forward signals to it,
    and restart it when it ends.

    Args:
        sockets: bound.
        deadline: seconds that a request may take.
        count: of this process's connections, beside those of other processes on the same
            sockets; None: there are no others.
    """
    server = _Server(
        uvicorn.Config(
            IsogonService.to_asgi(),  # type: ignore[attr-defined]
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEPT_ALIVE,
            timeout_graceful_shutdown=math.ceil(deadline) + BEYOND_DEADLINE,
        ),
        sockets,
        count or ConnectionTable().at(0),
    )
    # uvicorn installs its handlers later, and raises the signal again at the end. A signal
    # before or after must neither end the process nor be lost.
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, server.handle_exit)
    server.run(sockets=[])


class _Server(uvicorn.Server):
    """A uvicorn server that accepts by `Acceptor` and ends without losing a request.

    uvicorn closes its sockets at once, and the kernel resets the connections that wait to
    be accepted. It also closes idle connections, even if a client has just sent a request.
    This server accepts the waiting connections, and keeps idle ones open for `_LINGER`
    seconds; the next answer on each says `Connection: close`.
    """

    def __init__(
        self, config: uvicorn.Config, sockets: Sequence[socket], count: ConnectionCount
    ) -> None:
        super().__init__(config)
        self._count = count
        self._acceptor = Acceptor(sockets, self._protocol, count)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start the application, then accept connections."""
        await super().startup(sockets)
        self._acceptor.start()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Accept waiting connections, answer on open ones for a moment, then close them."""
        await self._acceptor.stop()
        state = self.server_state
        state.default_headers.append((b"connection", b"close"))
        end = asyncio.get_running_loop().time() + _LINGER
        while state.connections and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _protocol(self) -> "BoundedHttp":
        return BoundedHttp(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            count=self._count,
        )


class BoundedHttp(HttpToolsProtocol):
    """Refuses endless or slow headers, endless trailers and endless chunk extensions.

    "Head" below means the request line and the headers.
    """

    def __init__(self, *, count: ConnectionCount, **named: Any) -> None:
        super().__init__(**named)
        self._count = count
        self._unproductive = 0  # bytes since a head or a part of a body was complete
        self._in_head = True
        self._head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer, which holds the connection."""
        self._expect_no_head()
        super().connection_lost(exc)
        self._count.closed()

    def data_received(self, data: bytes) -> None:
        """Parse the data, unless too much came without completing anything."""
        self._unproductive += len(data)
        if self._unproductive > _MOST + len(data):
            return self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"The request's headers, or the bytes between two parts of its body, are "
                f"more than {_MOST:,} bytes. Send fewer or shorter headers.",
            )
        super().data_received(data)
        if self._in_head and self._head_timer is None and self._unproductive:
            self._expect_head()

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that its head is complete."""
        self._in_head = False
        self._unproductive = 0
        self._expect_no_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Note that a part of its body arrived."""
        self._unproductive = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete; the next data is another request's head."""
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
            return self.transport.close()  # no request was begun
        self._refuse(
            HTTPStatus.REQUEST_TIMEOUT,
            f"The request's headers did not arrive within {_HEAD_WITHIN:g} s.",
        )

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer without the application, if no other answer is in progress; then close."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            response = problem_response(status, detail, close=True)
            lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
            lines += [name + b": " + value for name, value in response.raw_headers]
            self.transport.write(b"\r\n".join([*lines, b"", response.body]))
        self.transport.close()
