"""`/metrics`: what Prometheus reads."""

from fastapi import APIRouter, Request, Response

from serving.observability.metrics import Metrics

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
async def expose(request: Request) -> Response:
    """Answer with all values."""
    metrics: Metrics = request.app.state.metrics
    content, kind = metrics.expose(request.headers.get("accept", ""))
    return Response(content, headers={"content-type": kind})
