"""`/livez`, `/readyz`, `/metrics` and their other names: for probes, without a key."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from starlette.responses import PlainTextResponse

from serving.api.problems import ProblemError
from serving.settings import LIVE, METRICS, READY

router = APIRouter(include_in_schema=False)


async def live() -> PlainTextResponse:
    """Say that the process answers."""
    return PlainTextResponse("\n")


async def ready(request: Request) -> PlainTextResponse:
    """Say that the models are loaded and proven, and every process answers.

    While the service ends it accepts no connections, so there is no answer for that.
    """
    if not hasattr(request.app.state, "models"):
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "No model is loaded yet.")
    if not request.app.state.complete:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE, "A process of the service is still starting."
        )
    return PlainTextResponse("\n")


for path in LIVE:
    router.add_api_route(path, live, methods=["GET", "HEAD"])
for path in READY:
    router.add_api_route(path, ready, methods=["GET", "HEAD"])


@router.get(METRICS)
async def expose(request: Request) -> Response:
    """Answer with all metrics, summed over all processes."""
    try:
        content, kind = await request.app.state.expose(request.headers.get("accept", ""))
    except TimeoutError as error:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "The process that sums the metrics is busy. Ask again.",
        ) from error
    return Response(content, headers={"content-type": kind})
