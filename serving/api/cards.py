"""`/v1/model`: what is served, and what vouches for it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from serving.api.schemas import CalibrationCard, ModelResponse
from serving.models import Models
from serving.served import ServedModel

router = APIRouter()


@router.get("/v1/model")
async def describe(
    request: Request, model: Annotated[str | None, Query()] = None
) -> ModelResponse:
    """Say what is served and what vouches for it."""
    models: Models = request.app.state.models
    async with models.use(model) as pipeline:
        return card(pipeline.model)


def card(model: ServedModel) -> ModelResponse:
    """Return the card of a model."""
    return ModelResponse(
        name=model.name,
        fingerprint=model.artifact.fingerprint,
        width=model.manifest.width,
        space=model.manifest.space,
        artifact=model.artifact.name,
        runner=model.runner.name,
        preprocessing=model.manifest.preprocessing,
        student=model.manifest.student,
        teacher=model.manifest.teacher,
        parity=model.artifact.report.figures,
        calibration=CalibrationCard(
            alpha=model.calibration.alpha, images=len(model.calibration.scores)
        ),
    )
