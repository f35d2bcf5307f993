"""`/v1/neighbours`, `/v1/calibration`, `/v1/examples`: what an answer rests on.

The page at `/` shows them beside an answer.
"""

import base64
from http import HTTPStatus
from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from isogon.errors import BundleError
from serving.api.answers import Answer, as_json
from serving.api.embedding import BODY, ModelQuery, ask, model_name
from serving.api.examples import Kind, example_images
from serving.api.problems import ProblemError
from serving.api.refusals import FINGERPRINT, OF_ANY, OF_IMAGES
from serving.api.routes import KnownQueryRoute
from serving.api.schemas import ModelName, ScoreResult
from serving.models import Models
from serving.served import ServedModel

_BINS = 32

router = APIRouter(route_class=KnownQueryRoute)


class Neighbour(BaseModel):
    """A reference image near to the one asked about."""

    index: int = Field(description="which of the reference images, from 0")
    cosine: float
    label: str | None = Field(description="its class; null without classes")
    image: str = Field(description="a small JPEG as a data: URL")


class NeighboursResult(ScoreResult):
    """One image's OOD score and neighbours."""

    neighbours: list[Neighbour] = Field(
        description="nearest first; empty where the bundle ships no thumbnails"
    )


class NeighboursResponse(BaseModel):
    """Results in the order of the request's images."""

    model: ModelName
    reference_images: int = Field(
        description="how many were searched: those the bundle ships as thumbnails, a "
        "sample of its bank"
    )
    results: list[NeighboursResult]


class CalibrationResponse(BaseModel):
    """The OOD scores that decisions are held against, as a histogram."""

    model: ModelName
    alpha: float = Field(description="the false-alarm rate asked for")
    images: int = Field(description="how many held-out familiar images were scored")
    threshold: float = Field(description="an image is flagged if it scores above this")
    edges: list[float] = Field(description="of the bins, ascending, one more than counts")
    counts: list[int] = Field(description="scores in each bin")


class Example(BaseModel):
    """An image of the bundle's own, to try."""

    kind: Kind
    image: str = Field(description="a JPEG as a data: URL")


class ExamplesResponse(BaseModel):
    """Held-out images, familiar ones first."""

    model: ModelName
    examples: list[Example]


@router.post(
    "/v1/neighbours",
    summary="Score images and find their neighbours",
    tags=["images"],
    response_model=NeighboursResponse,
    responses={**OF_IMAGES, 200: {"headers": FINGERPRINT}},
    openapi_extra=BODY,
)
async def neighbours(
    request: Request,
    k: Annotated[int, Query(ge=1, le=50, description="neighbours of each image")] = 8,
    model: ModelQuery = None,
) -> Response:
    """Say of each image how unfamiliar it is, and show its nearest reference images.

    Those are small pictures that the bundle ships: a sample of what the student learnt
    from, or of the site where it was calibrated.
    """
    answer = await ask(request, model)
    results = [
        {"ood": ood, "neighbours": near}
        for ood, near in zip(answer.oods(), _neighbours(answer, k), strict=True)
    ]
    shown = answer.thumbnails
    return as_json(
        answer,
        {
            "model": model_name(answer),
            "reference_images": 0 if shown is None else len(shown),
            "results": results,
        },
    )


@router.get(
    "/v1/calibration",
    summary="Show the calibration's scores",
    tags=["models"],
    responses=OF_ANY,
)
async def calibration(request: Request, model: ModelQuery = None) -> CalibrationResponse:
    """Return the histogram of the calibration's scores, and above what is flagged."""
    models: Models = request.app.state.models
    async with models.use(model) as pipeline:
        served = pipeline.model
    scores = served.calibration.scores
    counts, edges = np.histogram(scores, bins=_BINS)
    return CalibrationResponse(
        model=_name(served),
        alpha=served.calibration.alpha,
        images=len(scores),
        threshold=served.calibration.threshold,
        edges=edges.tolist(),
        counts=counts.tolist(),
    )


@router.get("/v1/examples", summary="Get images to try", tags=["models"], responses=OF_ANY)
async def examples(request: Request, model: ModelQuery = None) -> ExamplesResponse:
    """Return a few images that the bundle holds out: of its own kind, and of another."""
    models: Models = request.app.state.models
    async with models.use(model) as pipeline:
        served = pipeline.model
        try:
            images = await anyio.to_thread.run_sync(example_images, served.bundle)
        except (BundleError, OSError) as error:
            raise ProblemError(
                HTTPStatus.NOT_FOUND,
                "The files of this bundle's examples are no longer where they were when "
                "it was loaded. Put the bundle back, or reload the service.",
            ) from error
    return ExamplesResponse(
        model=_name(served),
        examples=[Example(kind=kind, image=_data_url(image)) for kind, image in images],
    )


def _neighbours(answer: Answer, k: int) -> list[list[dict[str, Any]]]:
    """Return `Neighbour` for each of the nearest of each image."""
    shown = answer.thumbnails
    if shown is None:
        return [[] for _ in answer.scores]
    return [
        [
            {
                "index": place,
                "cosine": round(cosine, 6),
                "label": None if shown.labels is None else shown.labels[place],
                "image": _data_url(shown.images[place]),
            }
            for place, cosine in zip(places.tolist(), cosines.tolist(), strict=True)
        ]
        for places, cosines in zip(*shown.nearest(answer.embeddings, k), strict=True)
    ]


def _name(served: ServedModel) -> ModelName:
    return ModelName(name=served.name, fingerprint=served.artifact.fingerprint)


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
