"""`/v1/model`: what is served, and the evidence for it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from serving.api.evaluation_card import evaluation_card
from serving.api.routes import OF_ANY, KnownQueryRoute
from serving.api.schemas import (
    CalibrationCard,
    LimitsCard,
    ModelResponse,
    ParityCard,
    RateRange,
)
from serving.models import Models
from serving.served_model import ServedModel
from serving.settings import Settings

router = APIRouter(route_class=KnownQueryRoute)


@router.get("/v1/model", responses=OF_ANY, tags=["models"], summary="Describe the model")
async def describe(
    request: Request,
    model: Annotated[
        str | None, Query(description="its name; absent or empty: the default")
    ] = None,
) -> ModelResponse:
    """Return what is served, and the evidence for it.

    Every answer has the fingerprint: an index belongs to one fingerprint. `parity` has
    the difference between the artifact and the student in PyTorch, `calibration` what
    decisions are based on, `evaluation` the figures of the student, of its teacher and of
    the same network before training, and `limits` what a request may hold.
    """
    models: Models = request.app.state.models
    async with models.use(model) as pipeline:
        return card(pipeline.model)


def card(model: ServedModel) -> ModelResponse:
    """Return the card of a model."""
    manifest = model.manifest
    return ModelResponse(
        name=model.name,
        fingerprint=model.artifact.fingerprint,
        schema_version=manifest.schema_version,
        width=manifest.width,
        space=manifest.space,
        artifact=model.artifact.name,
        runner=model.runner.name,
        preprocessing=manifest.preprocessing,
        student=manifest.student,
        teacher=manifest.teacher,
        provenance=manifest.provenance,
        parity=_parity(model),
        calibration=_calibration(model),
        evaluation=None if model.evaluated is None else evaluation_card(model.evaluated),
        limits=_limits(model.settings),
    )


def _parity(model: ServedModel) -> ParityCard:
    report = model.artifact.report
    return ParityCard(
        **report.figures.model_dump(),
        precision=report.precision,
        reference=report.reference,
        candidate=report.candidate,
        batch_sizes=report.batch_sizes,
        stability=report.stability,
        bounds=report.tolerance,
    )


def _calibration(model: ServedModel) -> CalibrationCard:
    calibration = model.calibration
    low, high = model.expected_rate
    return CalibrationCard(
        alpha=calibration.alpha,
        images=len(calibration.scores),
        expected=RateRange(low=low, high=high),
        realised=model.false_alarms,
    )


def _limits(settings: Settings) -> LimitsCard:
    return LimitsCard(
        images=settings.max_images,
        body_bytes=settings.max_body_bytes,
        image_bytes=settings.max_image_bytes,
        image_pixels=settings.max_image_pixels,
    )
