"""The BentoML service, for `isogon serve` and `bentoml serve serving.service:Isogon`."""

import gc
import logging
import os
from contextlib import AsyncExitStack
from typing import Any

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from isogon.errors import IsogonError
from serving.app import create_app
from serving.arbiter import COULD_NOT_START, supervise
from serving.models import Models
from serving.observability import (
    Metrics,
    Observations,
    start_observability,
    stop_observability,
)
from serving.settings import Settings, settings_from_environment
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


def load(settings: Settings) -> Models:
    """Make the application ready to answer: golden checks and measurements included.

    Raises:
        IsogonError: a setting, a bundle or its golden check is not in order.
    """
    start_observability(app, settings, bentoml.server_context.worker_index)
    # Of all that was imported nothing will be garbage. To go through it now and then takes
    # 80 ms, in which every request waits.
    gc.collect()
    gc.freeze()
    observations: Observations = app.state.observations
    models = Models.load(settings, observations.observer, observations.forget)
    app.state.models = models
    metrics: Metrics = app.state.metrics
    metrics.decoding.set_function(lambda: models.room.used)
    metrics.decoding_limit.set(models.room.size)
    metrics.held_limit.set(settings.held_bytes)
    return models


@bentoml.service(name="isogon", service_class=_Direct)
class Isogon:
    """Listens only once the models are loaded; a worker of BentoML's loads them here."""

    def __init__(self) -> None:
        if hasattr(app.state, "models"):
            return
        try:
            load(settings_from_environment())
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
