"""The BentoML service: `bentoml serve serving.service:Isogon` with ISOGON_BUNDLE set."""

import logging

import bentoml
from starlette.types import Receive, Scope, Send

from bundle import IsogonError
from serving.app import create_app
from serving.models import Models
from serving.observability import start_observability, stop_observability
from serving.settings import settings_from_environment

_log = logging.getLogger("isogon.serving")

app = create_app()


async def everything(scope: Scope, receive: Receive, send: Send) -> None:
    """Pass everything on: BentoML itself answers paths that an application lacks."""
    await app(scope, receive, send)


# Metrics, access log and traces are ours.
@bentoml.service(
    name="isogon",
    traffic={"timeout": 600},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(everything, path="/")
class Isogon:
    """Load one bundle; the worker is ready only after its golden check."""

    def __init__(self) -> None:
        try:
            settings = settings_from_environment()
            start_observability(app, settings, bentoml.server_context.worker_index)
            observer = app.state.observations.observer
            app.state.models = Models.load(settings, observer)
        except IsogonError as error:
            _log.error("%s", error)
            raise

    @bentoml.on_shutdown
    def stop(self) -> None:
        """Send what was observed last."""
        stop_observability(app)
