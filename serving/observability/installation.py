"""Observability in the application's life: installed with it, started, stopped."""

from fastapi import FastAPI

from isogon.errors import UsageError
from serving.observability import endpoint
from serving.observability.logs import configure_logs
from serving.observability.metrics import Metrics
from serving.observability.observations import Observations
from serving.observability.requests import Observed
from serving.observability.traces import tracing_from_environment
from serving.settings import Settings


def install_observability(app: FastAPI) -> None:
    """Watch every request of `app`; call it last, so that it is the outermost.

    `app.state.observations` is to be told of models and of their answers.
    """
    metrics = Metrics()
    app.state.metrics = metrics
    app.state.observations = Observations(metrics)
    app.include_router(endpoint.router)
    app.add_middleware(Observed, metrics=metrics, traced=app.state.observations)


def start_observability(app: FastAPI, settings: Settings, worker: int | None) -> None:
    """Set up this process's logs and traces.

    Args:
        app: the application, installed.
        settings: of the operator.
        worker: the process's number among the workers, from 1; None if it is none.

    Raises:
        UsageError: it is not the only worker, or traces cannot go where they should.
    """
    configure_logs(settings.log_format, settings.log_level)
    if worker is not None and worker > 1:
        # Each would answer `/metrics` with its own counts, as if requests were undone.
        raise UsageError(
            f"Isogon serves from one worker process, and this is number {worker}: queue, "
            f"batches and metrics are of a process. Leave `workers` of the service at 1; "
            f"more threads and more replicas use more cores."
        )
    app.state.observations.tracing = tracing_from_environment()


def stop_observability(app: FastAPI) -> None:
    """Send the spans that have not been sent."""
    if app.state.observations.tracing is not None:
        app.state.observations.tracing.close()
