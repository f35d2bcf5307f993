"""Observability in the application's life: installed with it, started, stopped."""

from functools import partial

from fastapi import FastAPI

from isogon.errors import UsageError
from serving.observability.logs import configure_logs
from serving.observability.metrics import Metrics
from serving.observability.observations import Observations
from serving.observability.requests import Observed
from serving.observability.traces import tracing_from_environment
from serving.settings import Settings


def install_observability(app: FastAPI) -> None:
    """Watch every request of `app`; call it last, so that it is the outermost.

    `app.state.observations` is to be told of models and of their answers;
    `app.state.expose` returns what `/metrics` says.
    """
    metrics = Metrics()
    app.state.metrics = metrics
    app.state.observations = Observations(metrics)
    app.state.expose = partial(_exposed, metrics)
    app.add_middleware(Observed, metrics=metrics, traced=app.state.observations)


def start_observability(app: FastAPI, settings: Settings, worker: int | None) -> None:
    """Set up this process's logs and traces.

    Args:
        app: the application, installed.
        settings: of the operator.
        worker: the process's number among BentoML's workers, from 1; None if it is none.

    Raises:
        UsageError: it is not the only worker, or traces cannot go where they should.
    """
    start_logging(settings)
    if worker is not None and worker > 1:
        # Each would answer `/metrics` with its own counts, as if requests were undone.
        raise UsageError(
            f"BentoML serves Isogon from one worker process, and this is number {worker}: "
            f"its workers share no metrics. Leave `workers` of the service at 1; `isogon "
            f"serve --processes` answers from several."
        )
    start_tracing(app)


def start_logging(settings: Settings) -> None:
    """Send this process's logs to stderr."""
    configure_logs(settings.log_format, settings.log_level)


def start_tracing(app: FastAPI) -> None:
    """Send traces, where the environment asks for them.

    Raises:
        UsageError: traces cannot go where they should.
    """
    app.state.observations.tracing = tracing_from_environment()


def stop_observability(app: FastAPI) -> None:
    """Send the spans that have not been sent."""
    if app.state.observations.tracing is not None:
        app.state.observations.tracing.close()


async def _exposed(metrics: Metrics, accept: str) -> tuple[bytes, str]:
    return metrics.expose(accept)
