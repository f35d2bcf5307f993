"""One process that listens: the BentoML service without BentoML's supervisor."""

import asyncio
import math
import select
import signal
from collections.abc import Sequence
from socket import socket

import uvicorn

from serving.bento.service import Isogon
from serving.launch.protocol import BoundedHttp

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
