"""Observability of an application: installed, started, and stopped with it."""

from functools import partial

from fastapi import FastAPI

from isogon.errors import UsageError
from serving.observability.logs import configure_logs
from serving.observability.metrics import Metrics
from serving.observability.observations import Observations
from serving.observability.requests import ObserveRequests
from serving.observability.traces import tracing_from_environment
from serving.settings import Settings


def install_observability(app: FastAPI) -> None:
    """Observe every request of `app`; call this last, so that it is outermost.

    It sets `app.state.metrics`; `app.state.observations`, which is told of models and
    their answers; and `app.state.expose`, which returns the content of `/metrics`.
    """
    metrics = Metrics()
    app.state.metrics = metrics
    app.state.observations = Observations(metrics)
    app.state.expose = partial(_exposed, metrics)
    app.add_middleware(ObserveRequests, metrics=metrics, traced=app.state.observations)


def start_observability(app: FastAPI, settings: Settings, worker: int | None) -> None:
    """Set up this process's logs and traces.

    Args:
        app: the application, installed.
        settings: of the operator.
        worker: the process's number among BentoML's workers, from 1; None: not a worker.

    Raises:
        UsageError: it is not the only worker, or the settings of traces are invalid.
    """
    start_logging(settings)
    if worker is not None and worker > 1:
        # Each worker would answer `/metrics` with its own counts: they would go down.
        raise UsageError(
            f"Isogon needs one worker process of BentoML, and this is number {worker}: "
            f"BentoML's workers share no metrics. Leave `workers` of the service at 1, or "
            f"use `isogon serve --processes`, which answers from several."
        )
    start_tracing(app)


def start_logging(settings: Settings) -> None:
    """Send this process's logs to stderr."""
    configure_logs(settings.log_format, settings.log_level)


def start_tracing(app: FastAPI) -> None:
    """Send traces, if the environment asks for them.

    Raises:
        UsageError: an exporter or a protocol that this service does not have.
    """
    app.state.observations.tracing = tracing_from_environment()


def stop_observability(app: FastAPI) -> None:
    """Send the remaining spans."""
    if app.state.observations.tracing is not None:
        app.state.observations.tracing.close()


async def _exposed(metrics: Metrics, accept: str) -> tuple[bytes, str]:
    return metrics.expose(accept)
