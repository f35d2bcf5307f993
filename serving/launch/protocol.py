"""HTTP as uvicorn parses it with httptools, with a bound on what is no body.

uvicorn bounds no header there: each piece of an endless one is joined to those before,
which takes time by the square and memory without end, and one connection stops the
process. h11 has a bound, and answers half as many requests (`docs/reliability.md`).
"""

from asyncio import TimerHandle, Transport
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.api.problems import problem_response

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
