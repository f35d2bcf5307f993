"""`/v1/embed` and `/v1/score`."""

import base64
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request

from bundle import Outputs
from serving.api.departure import while_connected
from serving.api.problems import MEDIA_TYPE
from serving.api.schemas import (
    EmbedResponse,
    EmbedResult,
    Encoding,
    ModelName,
    Ood,
    Problem,
    ScoreResponse,
    ScoreResult,
)
from serving.api.uploads import read_images
from serving.models import Models
from serving.served import ServedModel

_BINARY = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {"images": {"type": "array", "items": _BINARY}},
                }
            },
            "image/*": {"schema": _BINARY},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "byte"},
                        }
                    },
                }
            },
        },
    }
}
_PROBLEM = {"model": Problem, "content": {MEDIA_TYPE: {}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {**_PROBLEM, "description": "an image does not decode"},
    404: {**_PROBLEM, "description": "no such model"},
    413: {**_PROBLEM, "description": "past a limit on bytes, pixels or images"},
    415: {**_PROBLEM, "description": "a type that is not accepted"},
    422: {**_PROBLEM, "description": "a field is missing, unknown or malformed"},
    429: {**_PROBLEM, "description": "too many images wait; Retry-After says how long"},
    503: {**_PROBLEM, "description": "the service is shutting down"},
    504: {**_PROBLEM, "description": "not answered within the deadline"},
}

router = APIRouter()


@router.post("/v1/embed", responses=_REFUSALS, openapi_extra=_BODY)
async def embed(
    request: Request,
    encoding: Annotated[Encoding, Query()] = "float",
    model: Annotated[str | None, Query()] = None,
) -> EmbedResponse:
    """Embed each image of the request and say how unfamiliar it is."""
    served, outputs = await _answer(request, model)
    results = [
        EmbedResult(embedding=_encoded(embedding, encoding), ood=ood)
        for embedding, ood in zip(
            outputs.embeddings, _decisions(served, outputs), strict=True
        )
    ]
    return EmbedResponse(model=_name(served), width=served.manifest.width, results=results)


@router.post("/v1/score", responses=_REFUSALS, openapi_extra=_BODY)
async def score(
    request: Request, model: Annotated[str | None, Query()] = None
) -> ScoreResponse:
    """Say of each image of the request how unfamiliar it is."""
    served, outputs = await _answer(request, model)
    results = [ScoreResult(ood=ood) for ood in _decisions(served, outputs)]
    return ScoreResponse(model=_name(served), results=results)


async def _answer(request: Request, name: str | None) -> tuple[ServedModel, Outputs]:
    models: Models = request.app.state.models
    async with models.use(name) as pipeline:
        images = await read_images(request, pipeline.model.settings)
        async with while_connected(request):
            model, outputs = pipeline.model, await pipeline.answer(images)
        flagged = model.calibration.is_ood(outputs.ood_scores)
        request.app.state.observations.seen(model, outputs.ood_scores, flagged)
        return model, outputs


def _decisions(model: ServedModel, outputs: Outputs) -> list[Ood]:
    """Return score, p-value and decision of each image."""
    p_values = model.calibration.p_values(outputs.ood_scores)
    return [
        Ood(
            score=float(score),
            p_value=float(p_value),
            is_ood=bool(p_value <= model.calibration.alpha),
        )
        for score, p_value in zip(outputs.ood_scores, p_values, strict=True)
    ]


def _name(model: ServedModel) -> ModelName:
    return ModelName(name=model.name, fingerprint=model.artifact.fingerprint)


def _encoded(embedding: np.ndarray, encoding: Encoding) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(embedding.astype("<f4").tobytes()).decode()
    numbers: list[float] = embedding.tolist()
    return numbers
