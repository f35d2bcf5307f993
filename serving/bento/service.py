"""The BentoML service; `isogon serve` listens for it, and `bentoml serve` can, too."""

import gc
import logging
import os
from contextlib import AsyncExitStack
from typing import Any

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from isogon.errors import IsogonError
from serving.app import create_app
from serving.bento.arbiter import COULD_NOT_START, supervise
from serving.bundles import Bundles
from serving.limits import KeyRing
from serving.models import Models, kept_current
from serving.observability import (
    Metrics,
    Observations,
    start_observability,
    stop_observability,
)
from serving.settings import Settings, settings_from_environment

_log = logging.getLogger("isogon.serving")

app = create_app()
supervise()


class _Direct(bentoml.Service[Any]):  # type: ignore[misc]
    """Passes every HTTP request to our application, not to BentoML's.

    BentoML's routes and errors have other formats than ours, its middleware costs more
    than all of ours, and its timeout keeps a timer for each request for minutes.
    """

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Return the application, with BentoML's startup and shutdown (lifespan)."""
        bento = super().to_asgi(is_main)

        async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
            answering = bento if scope["type"] == "lifespan" else app
            await answering(scope, receive, send)

        return asgi


def load(settings: Settings) -> Models:
    """Load the models, check golden images, measure, and let the application answer.

    Raises:
        IsogonError: a setting or a bundle is faulty, or a golden check fails.
    """
    start_observability(app, settings, bentoml.server_context.worker_index)
    KeyRing.of(settings)  # raises here what the first request would raise
    freeze()
    models = answer_from(Bundles.load(settings))
    app.state.beside = kept_current(models)
    return models


def answer_from(bundles: Bundles) -> Models:
    """Let the application answer from loaded bundles, and set its gauges of memory."""
    observations: Observations = app.state.observations
    models = Models(bundles, observations.observer, observations.forget)
    metrics: Metrics = app.state.metrics
    metrics.decoding.set_function(lambda: models.room.used)
    metrics.decoding_limit.set(models.room.size)
    metrics.held_limit.set(models.settings.held_bytes)
    app.state.models = models
    return models


def freeze() -> None:
    """Collect garbage once more, and exclude all present objects from later collections.

    Imported modules never become garbage. Scanning them takes 80 ms each time, in which
    every request waits.
    """
    gc.collect()
    gc.freeze()


@bentoml.service(name="isogon", service_class=_Direct)
class IsogonService:
    """Loads the models before it listens, unless `load` was called before."""

    def __init__(self) -> None:
        if hasattr(app.state, "models"):
            return
        try:
            load(settings_from_environment())
        except IsogonError as error:
            _log.error("%s", error)
            # Nothing is open yet. An exception would hide the message in tracebacks.
            os._exit(COULD_NOT_START)

    @bentoml.on_startup
    async def start(self) -> None:
        """Start background work, for example reloading changed bundles."""
        self._open = AsyncExitStack()
        self._open.callback(stop_observability, app)
        self._open.push_async_callback(app.state.models.close)
        await self._open.enter_async_context(app.state.beside)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Close the models; all accepted requests have been answered."""
        await self._open.aclose()
