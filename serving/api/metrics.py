"""`/metrics`: what Prometheus reads."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from serving.api.problems import ProblemError
from serving.paths import METRICS

router = APIRouter()


@router.get(METRICS, include_in_schema=False)
async def expose(request: Request) -> Response:
    """Answer with all values, of all processes where there are several."""
    try:
        content, kind = await request.app.state.expose(request.headers.get("accept", ""))
    except TimeoutError as error:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "The process that adds the metrics up is busy. Ask again.",
        ) from error
    return Response(content, headers={"content-type": kind})
