"""`/v1/embeddings`: OpenAI's embeddings API, for images as data URLs."""

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response

from serving.api.answers import answered, as_json
from serving.api.bodies import body_of, content_type
from serving.api.json_bodies import beside, from_data_url, parsed
from serving.api.problems import bad_content_type, bad_field, too_many
from serving.api.routes import FINGERPRINT, OF_IMAGES, QueryRoute, Refusals
from serving.api.schemas import EXAMPLE_IMAGE, EmbeddingsRequest, EmbeddingsResponse
from serving.api.uploads import Upload
from serving.models import Models

PATH = "/v1/embeddings"
_EXPECTED = '{"input": ["data:image/jpeg;base64,…", …]}'
_EXAMPLE = f"data:image/png;base64,{EXAMPLE_IMAGE}"
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": EmbeddingsRequest.model_json_schema(),
                "example": {"input": [_EXAMPLE]},
            }
        },
    }
}
_ANSWER: Refusals = {
    200: {
        "description": "Embeddings in the order of the request's images.",
        "headers": FINGERPRINT,
    }
}

router = APIRouter(tags=["images"], route_class=QueryRoute)


@router.post(
    PATH,
    summary="Embed images as OpenAI's API does",
    response_model=EmbeddingsResponse,
    responses=_ANSWER | OF_IMAGES,
    openapi_extra=_BODY,
)
async def embeddings(request: Request) -> Response:
    """Embed images given as data URLs, for clients of OpenAI's embeddings API.

    The service fetches nothing: `http:`, `https:` and `file:` URLs are refused, and so
    are text and tokens. Each result has OpenAI's fields and an `ood`. Each problem has an
    `error`, whose `message` such clients show.
    """
    if (kind := content_type(request)) != "application/json":
        raise bad_content_type(kind, f"Send application/json {_EXPECTED}.")
    models: Models = request.app.state.models
    settings = models.settings
    body = await body_of(request, settings)
    asked = await beside(
        len(body), lambda: parsed(body, EmbeddingsRequest, settings, _EXPECTED)
    )
    if len(asked.input) > settings.max_images:
        raise too_many(settings)
    async with models.use(asked.model) as pipeline:
        _require_width(asked.dimensions, pipeline.model.manifest.width)
    images = await beside(
        len(body),
        lambda: [from_data_url(url, i, settings) for i, url in enumerate(asked.input)],
    )
    answer = await answered(request, Upload(images=images, model=asked.model))
    data = [
        {"object": "embedding", "index": index, "embedding": embedding, "ood": ood}
        for index, (embedding, ood) in enumerate(
            zip(
                answer.embeddings_as(asked.encoding_format or "float"),
                answer.oods(),
                strict=True,
            )
        )
    ]
    usage = {"prompt_tokens": len(images), "total_tokens": len(images)}
    return as_json(
        answer, {"object": "list", "data": data, "model": answer.model, "usage": usage}
    )


def _require_width(dimensions: int | None, width: int) -> None:
    if dimensions not in (None, width):
        raise bad_field(
            f"dimensions: this model's embeddings have {width} numbers, and are not "
            f"shortened. Leave `dimensions` out."
        )


def complete(problem: dict[str, Any]) -> None:
    """Give a problem the `error` that OpenAI's clients expect.

    Their exceptions show only `error.message` of a body. An image is called `input[…]`
    there.
    """
    if problem["detail"].startswith("images["):  # as the other routes call it
        problem["detail"] = "input" + problem["detail"].removeprefix("images")
    kind = HTTPStatus(problem["status"]).name.lower()
    problem["error"] = {"message": problem["detail"], "type": kind, "code": kind}
