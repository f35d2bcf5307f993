"""One process that listens: the BentoML service without BentoML's supervisor."""

import math
import signal
from contextlib import suppress

import uvicorn

from serving.protocol import BoundedHttp
from serving.service import Isogon

# Once the service is told to end, accepted requests have their deadline and this to be
# answered. Whoever kills it after a time of their own has to leave it so long.
_BEYOND_DEADLINE = 5  # seconds
_KEPT_ALIVE = 75  # seconds; proxies keep an idle connection for 60 and want to end it


def listen(*, host: str, port: int, deadline: float) -> None:
    """Answer until SIGTERM or SIGINT, finish what was accepted, and return.

    `serving.service.load` comes before. BentoML's supervisor would import all of it in
    a second process, hand signals on, and start that process again where it ends; here
    signals arrive where the models are.
    """
    server = uvicorn.Server(
        uvicorn.Config(
            Isogon.to_asgi(),  # type: ignore[attr-defined]
            host=host,
            port=port,
            http=BoundedHttp,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEPT_ALIVE,
            timeout_graceful_shutdown=math.ceil(deadline) + _BEYOND_DEADLINE,
        )
    )
    # Once it has ended uvicorn raises the signal again, for whoever was there before.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(KeyboardInterrupt):
        server.run()
