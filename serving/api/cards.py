"""`/v1/model`: what is served, and what vouches for it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from bundle.detection import detection_sentence
from bundle.evaluation import Baseline, Evaluation, Fidelity, Quality
from bundle.worth import worth_of
from serving.api.refusals import OF_ANY
from serving.api.routes import KnownQueryRoute
from serving.api.schemas import (
    CalibrationCard,
    DetectionCard,
    DistillationCard,
    EvaluationCard,
    FiguresCard,
    LimitsCard,
    ModelResponse,
    ParityCard,
    RateRange,
    UnfamiliarCard,
)
from serving.models import Models
from serving.served import Evaluated, ServedModel
from serving.settings import Settings

router = APIRouter(route_class=KnownQueryRoute)


@router.get("/v1/model", responses=OF_ANY, tags=["models"], summary="Describe the model")
async def describe(
    request: Request,
    model: Annotated[str | None, Query(description="its name; absent: the default")] = None,
) -> ModelResponse:
    """Say what is served and what vouches for it.

    The fingerprint is that of every answer: an index belongs to one fingerprint.
    `parity` says how far the artifact is from the student in PyTorch, `calibration`
    what decisions rest on, `evaluation` what the student is worth, beside its teacher and
    the same network undistilled, `limits` what a request may hold.
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
        evaluation=None if model.evaluated is None else _evaluation(model.evaluated),
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


def _evaluation(evaluated: Evaluated) -> EvaluationCard:
    found = evaluated.evaluation
    return EvaluationCard(
        test_images=found.test_images,
        bank_images=found.bank_images,
        student=_figures(found, found.student, found.fidelity),
        teacher=None if found.teacher is None else _figures(found, found.teacher, None),
        undistilled=_baseline(found, found.undistilled),
        start=_baseline(found, found.start),
        distillation=_distillation(found),
        detection=_detection(evaluated) if found.unfamiliar else None,
    )


def _figures(found: Evaluation, quality: Quality, fidelity: Fidelity | None) -> FiguresCard:
    sets = {name: found.auroc_in_force(quality, name) for name in found.unfamiliar}
    return FiguresCard(
        knn_accuracy=quality.knn_accuracy,
        neighbour_overlap=None if fidelity is None else fidelity.neighbour_overlap,
        angle_distortion=None if fidelity is None else fidelity.angle_distortion,
        auroc={name: auroc for name, auroc in sets.items() if auroc is not None},
    )


def _baseline(found: Evaluation, baseline: Baseline | None) -> FiguresCard | None:
    if baseline is None:
        return None
    return _figures(found, baseline.quality, baseline.fidelity)


def _distillation(found: Evaluation) -> DistillationCard:
    worth = worth_of(found)
    return DistillationCard(
        verdict=worth.verdict,
        sentence=worth.sentence,
        pretrained=found.pretrained,
        gains=found.gains,
    )


def _detection(evaluated: Evaluated) -> DetectionCard:
    found = evaluated.evaluation
    return DetectionCard(
        sentence=detection_sentence(found),
        detector=found.detector,
        alpha=evaluated.alpha,
        served=evaluated.detector,
        sets={
            name: UnfamiliarCard(
                kind=one.kind,
                images=one.images,
                flagged=one.flagged,
                auroc=found.auroc_in_force(found.student, name),
            )
            for name, one in found.unfamiliar.items()
        },
    )


def _limits(settings: Settings) -> LimitsCard:
    return LimitsCard(
        images=settings.max_images,
        body_bytes=settings.max_body_bytes,
        image_bytes=settings.max_image_bytes,
        image_pixels=settings.max_image_pixels,
    )
