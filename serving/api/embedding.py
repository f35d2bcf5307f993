"""`/v1/embed` and `/v1/score`: embeddings and OOD scores of a request's images."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from serving.api.answers import (
    JSON,
    NPY,
    RequestAnswer,
    answered,
    as_json,
    as_npy,
    negotiated,
)
from serving.api.problems import bad_field
from serving.api.routes import FINGERPRINT, NOT_ACCEPTABLE, OF_IMAGES, QueryRoute, Refusals
from serving.api.schemas import (
    EXAMPLE_IMAGE,
    Base64Images,
    EmbedResponse,
    Encoding,
    ScoreResponse,
)
from serving.api.uploads import Upload, read_upload
from serving.models import Models

_BINARY = {"type": "string", "format": "binary"}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image as the body itself, or several in a form or in JSON.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "additionalProperties": False,
                    "properties": {
                        "images": {"type": "array", "minItems": 1, "items": _BINARY},
                        "model": {"type": "string"},
                    },
                }
            },
            "image/*": {"schema": _BINARY},
            "application/json": {
                "schema": Base64Images.model_json_schema(),
                "example": {"images": [EXAMPLE_IMAGE]},
            },
        },
    }
}
ModelQuery = Annotated[
    str | None,
    Query(
        description="name of the model that answers, if the body does not name one; "
        "absent or empty: the default"
    ),
]

router = APIRouter(tags=["images"], route_class=QueryRoute)


def _documented(npy: str) -> Refusals:
    answer: dict[str, Any] = {
        "description": "Results in the order of the request's images.",
        "content": {NPY: {"schema": {**_BINARY, "description": npy}}},
        "headers": FINGERPRINT,
    }
    return {200: answer} | OF_IMAGES | NOT_ACCEPTABLE


@router.post(
    "/v1/embed",
    summary="Embed and score images",
    response_model=EmbedResponse,
    responses=_documented("the embeddings, float32 [images, width]"),
    openapi_extra=BODY,
)
async def embed(
    request: Request,
    encoding: Annotated[
        Encoding,
        Query(description="of embeddings in JSON; base64 is 40 % of the size"),
    ] = "float",
    model: ModelQuery = None,
) -> Response:
    """Return the embedding and the OOD score of each image of the request.

    With `Accept: application/x-npy` the answer is a NumPy file of the embeddings alone.
    JSON has the scores too; `encoding=base64` makes it compact.
    """
    kind = negotiated(request.headers.get("accept"), (JSON, NPY))
    answer = await ask(request, model)
    if kind == NPY:
        return as_npy(answer, answer.answers.embeddings)
    results = [
        {"embedding": embedding, "ood": ood}
        for embedding, ood in zip(
            answer.embeddings_as(encoding), answer.oods(), strict=True
        )
    ]
    width = answer.answers.embeddings.shape[1]
    return as_json(
        answer, {"model": model_name(answer), "width": width, "results": results}
    )


@router.post(
    "/v1/score",
    summary="Score images",
    response_model=ScoreResponse,
    responses=_documented("float64 [images, 3]: score, p-value, and 1 if flagged, else 0"),
    openapi_extra=BODY,
)
async def score(request: Request, model: ModelQuery = None) -> Response:
    """Return the OOD score of each image of the request, and the decision.

    With `Accept: application/x-npy` the answer is a NumPy file with a row for each
    image: score, p-value, and 1 if it is flagged, else 0.
    """
    kind = negotiated(request.headers.get("accept"), (JSON, NPY))
    answer = await ask(request, model)
    if kind == NPY:
        found = answer.answers
        columns = (found.scores, found.p_values, found.is_ood)
        return as_npy(answer, np.stack(columns, axis=1, dtype=np.float64))
    results = [{"ood": ood} for ood in answer.oods()]
    return as_json(answer, {"model": model_name(answer), "results": results})


async def ask(request: Request, model: str | None) -> RequestAnswer:
    """Read the images of a request and run the model that it names on them."""
    models: Models = request.app.state.models
    upload = await read_upload(request, models.settings)
    if model and upload.model and model != upload.model:
        raise bad_field("The query and the body name different models. Name one.")
    chosen = Upload(images=upload.images, model=upload.model or model)
    return await answered(request, chosen)


def model_name(answer: RequestAnswer) -> dict[str, str]:
    """Return `schemas.ModelName`."""
    return {"name": answer.model, "fingerprint": answer.fingerprint}
