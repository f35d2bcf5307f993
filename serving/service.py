"""The BentoML service: `bentoml serve serving.service:Isogon` with ISOGON_BUNDLE set."""

import logging
import os
from contextlib import AsyncExitStack
from typing import Any

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from bundle import IsogonError
from serving.app import create_app
from serving.arbiter import COULD_NOT_START, supervise
from serving.models import Models
from serving.observability import start_observability, stop_observability
from serving.settings import settings_from_environment
from serving.watching import kept_current

_log = logging.getLogger("isogon.serving")

app = create_app()
supervise()


class _Direct(bentoml.Service[Any]):  # type: ignore[misc]
    """Hands every HTTP request to the application, past BentoML's own.

    BentoML's routes and errors are of another shape than ours, its middleware costs
    more than all of ours, and its timeout keeps a timer of each request for minutes.
    """

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Return the application, with BentoML's start and end around it."""
        bento = super().to_asgi(is_main)

        async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
            answering = bento if scope["type"] == "lifespan" else app
            await answering(scope, receive, send)

        return asgi


@bentoml.service(name="isogon", service_class=_Direct)
class Isogon:
    """Load the bundles; the worker listens only after their golden checks."""

    def __init__(self) -> None:
        try:
            settings = settings_from_environment()
            start_observability(app, settings, bentoml.server_context.worker_index)
            app.state.models = Models.load(settings, app.state.observations.observer)
        except IsogonError as error:
            _log.error("%s", error)
            # Nothing is open yet; an exception would bury the message in tracebacks.
            os._exit(COULD_NOT_START)

    @bentoml.on_startup
    async def start(self) -> None:
        """Keep the models current from now on."""
        self._open = AsyncExitStack()
        self._open.callback(stop_observability, app)
        self._open.push_async_callback(app.state.models.close)
        await self._open.enter_async_context(kept_current(app.state.models))

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Let go of the models; the requests accepted have been answered by now."""
        await self._open.aclose()
