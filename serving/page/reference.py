"""What the page shows beside an answer: neighbours, calibration, examples.

They are routes like the others, documented and behind the same API key.
"""

import base64
from typing import Annotated

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from bundle import Thumbnails
from serving.api.embedding import BODY, REFUSALS, decisions, model_name
from serving.api.schemas import ModelName, ScoreResult
from serving.api.uploads import read_images
from serving.models import Models
from serving.page.examples import Kind, example_images

_BINS = 32

router = APIRouter()


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


@router.post("/v1/neighbours", responses=REFUSALS, openapi_extra=BODY)
async def neighbours(
    request: Request,
    k: Annotated[int, Query(ge=1, le=50, description="neighbours of each")] = 8,
) -> NeighboursResponse:
    """Say of each image how unfamiliar it is, and show its nearest reference images."""
    models: Models = request.app.state.models
    async with models.use() as pipeline:
        model = pipeline.model
        images = await read_images(request, model.settings)
        outputs = await pipeline.answer(images)
    shown = model.thumbnails
    found = (
        [[] for _ in images] if shown is None else _nearest(shown, outputs.embeddings, k)
    )
    return NeighboursResponse(
        model=model_name(model),
        reference_images=0 if shown is None else len(shown),
        results=[
            NeighboursResult(ood=ood, neighbours=near)
            for ood, near in zip(decisions(model, outputs), found, strict=True)
        ],
    )


@router.get("/v1/calibration")
async def calibration(request: Request) -> CalibrationResponse:
    """Return the histogram of the calibration's scores, and what is flagged."""
    models: Models = request.app.state.models
    async with models.use() as pipeline:
        model = pipeline.model
    scores = model.calibration.scores
    counts, edges = np.histogram(scores, bins=_BINS)
    return CalibrationResponse(
        model=model_name(model),
        alpha=model.calibration.alpha,
        images=len(scores),
        threshold=model.calibration.threshold,
        edges=edges.tolist(),
        counts=counts.tolist(),
    )


@router.get("/v1/examples")
async def examples(request: Request) -> ExamplesResponse:
    """Return a few images that the bundle holds out, to try the model on."""
    models: Models = request.app.state.models
    async with models.use() as pipeline:
        model = pipeline.model
        images = await anyio.to_thread.run_sync(example_images, model.bundle)
    return ExamplesResponse(
        model=model_name(model),
        examples=[Example(kind=kind, image=_data_url(image)) for kind, image in images],
    )


def _nearest(
    thumbnails: Thumbnails, embeddings: np.ndarray, k: int
) -> list[list[Neighbour]]:
    return [
        [
            Neighbour(
                index=place,
                cosine=cosine,
                label=None if thumbnails.labels is None else thumbnails.labels[place],
                image=_data_url(thumbnails.images[place]),
            )
            for place, cosine in zip(places.tolist(), cosines.tolist(), strict=True)
        ]
        for places, cosines in zip(*thumbnails.nearest(embeddings, k), strict=True)
    ]


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
