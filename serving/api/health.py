"""`/livez`, `/readyz` and what others call them: for probes, without a key."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse

from serving.api.problems import ProblemError
from serving.paths import LIVE, READY

router = APIRouter(include_in_schema=False)


async def live() -> PlainTextResponse:
    """Say that the process answers."""
    return PlainTextResponse("\n")


async def ready(request: Request) -> PlainTextResponse:
    """Say that the models are loaded and proven, and every process answers.

    There is nothing to say while the service ends: it then accepts no connection.
    """
    if not hasattr(request.app.state, "models"):
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "No model is loaded yet.")
    if not request.app.state.complete:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE, "A process of the service is being started."
        )
    return PlainTextResponse("\n")


for path in LIVE:
    router.add_api_route(path, live, methods=["GET", "HEAD"])
for path in READY:
    router.add_api_route(path, ready, methods=["GET", "HEAD"])
