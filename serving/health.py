"""`/livez`, `/healthz` and `/readyz`: for probes, without a key."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse

from serving.api.problems import ProblemError

router = APIRouter(include_in_schema=False)


@router.api_route("/livez", methods=["GET", "HEAD"])
@router.api_route("/healthz", methods=["GET", "HEAD"])
async def live() -> PlainTextResponse:
    """Say that the process answers."""
    return PlainTextResponse("\n")


@router.api_route("/readyz", methods=["GET", "HEAD"])
async def ready(request: Request) -> PlainTextResponse:
    """Say that the models are loaded and proven.

    There is nothing to say while the service ends: it then accepts no connection.
    """
    if not hasattr(request.app.state, "models"):
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "No model is loaded yet.")
    return PlainTextResponse("\n")
