"""`/v1/neighbours`, `/v1/calibration`, `/v1/examples`: evidence for an answer.

They return the nearest reference images, the calibration scores, and held-out images to
try. The page at `/` shows them beside an answer.
"""

import base64
import io
from collections.abc import Iterator
from http import HTTPStatus
from typing import Annotated, Any, Literal

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query, Request, Response
from jaxtyping import UInt8
from PIL import Image
from pydantic import BaseModel, Field
from safetensors import safe_open

from isogon.bundle import HELD_OUT, SITE_DETECTOR, Bundle, held_out_for
from isogon.errors import BundleError
from isogon.images.collection import spread
from serving.api.answers import RequestAnswer, as_json
from serving.api.embedding import BODY, ModelQuery, ask, model_name
from serving.api.problems import ProblemError
from serving.api.routes import FINGERPRINT, OF_ANY, OF_IMAGES, KnownQueryRoute
from serving.api.schemas import ModelName, ScoreResult
from serving.models import Models
from serving.served_model import ServedModel

Kind = Literal["familiar", "unfamiliar"]

_EACH = 5  # example images of each kind
# Where the images are; those of `isogon calibrate` come before those of training.
_PLACES: dict[Kind, tuple[str, ...]] = {
    "familiar": (held_out_for(SITE_DETECTOR), HELD_OUT),
    "unfamiliar": (HELD_OUT,),
}
_BINS = 32  # of the histogram

router = APIRouter(route_class=KnownQueryRoute)


class Neighbour(BaseModel):
    """A reference image near an image of the request."""

    index: int = Field(description="which of the reference images, from 0")
    cosine: float
    label: str | None = Field(description="its class; null without classes")
    image: str = Field(description="a small JPEG as a data: URL")


class NeighboursResult(ScoreResult):
    """One image's OOD score and neighbours."""

    neighbours: list[Neighbour] = Field(
        description="nearest first; empty if the bundle has no thumbnails"
    )


class NeighboursResponse(BaseModel):
    """Results in the order of the request's images."""

    model: ModelName
    reference_images: int = Field(
        description="how many were searched: a sample of the bank, which the bundle has as "
        "thumbnails"
    )
    results: list[NeighboursResult]


class CalibrationResponse(BaseModel):
    """The calibration scores, which decisions are based on, as a histogram."""

    model: ModelName
    alpha: float = Field(description="the false-alarm rate asked for")
    images: int = Field(description="how many held-out in-distribution images were scored")
    threshold: float = Field(description="an image is flagged if it scores above this")
    edges: list[float] = Field(description="of the bins, ascending, one more than counts")
    counts: list[int] = Field(description="scores in each bin")


class Example(BaseModel):
    """A held-out image of the bundle, to try."""

    kind: Kind
    image: str = Field(description="a JPEG as a data: URL")


class ExamplesResponse(BaseModel):
    """Held-out images, familiar (in-distribution) ones first."""

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
    """Return the OOD score and the nearest reference images of each image.

    Reference images are thumbnails in the bundle: a sample of the training images, or of
    those it was calibrated with.
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
    """Return the histogram of the calibration scores, and the threshold."""
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
    """Return a few held-out images: in-distribution and out-of-distribution ones."""
    models: Models = request.app.state.models
    async with models.use(model) as pipeline:
        served = pipeline.model
        try:
            images = await anyio.to_thread.run_sync(example_images, served.bundle)
        except (BundleError, OSError) as error:
            raise ProblemError(
                HTTPStatus.NOT_FOUND,
                "The files of this bundle's examples have moved since it was loaded. Put "
                "the bundle back, or reload the service.",
            ) from error
    return ExamplesResponse(
        model=_name(served),
        examples=[Example(kind=kind, image=_data_url(image)) for kind, image in images],
    )


def example_images(bundle: Bundle) -> list[tuple[Kind, bytes]]:
    """Return some familiar and some unfamiliar images as JPEG, evenly spread.

    They are preprocessed already. If the preprocessing crops a margin, it is cropped once
    more when they are sent back. They are read one by one: all held-out images would be
    tens of megabytes.
    """
    return [
        (kind, _jpeg(pixels))
        for kind, names in _PLACES.items()
        for pixels in _some(bundle, kind, names)
    ]


def _neighbours(answer: RequestAnswer, k: int) -> list[list[dict[str, Any]]]:
    """Return the nearest reference images of each image, as `Neighbour` has them."""
    shown = answer.thumbnails
    if shown is None:
        return [[] for _ in answer.answers.scores]
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
        for places, cosines in zip(
            *shown.nearest(answer.answers.embeddings, k), strict=True
        )
    ]


def _some(
    bundle: Bundle, kind: Kind, names: tuple[str, ...]
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    name = next((name for name in names if name in bundle), None)
    if name is None:
        return
    with safe_open(bundle.file(name), framework="numpy") as file:
        if kind not in file.keys():
            return
        images = file.get_slice(kind)
        for place in spread(images.get_shape()[0], _EACH):
            yield images[int(place)]


def _jpeg(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _name(served: ServedModel) -> ModelName:
    return ModelName(name=served.name, fingerprint=served.artifact.fingerprint)
