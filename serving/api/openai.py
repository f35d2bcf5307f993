"""`/v1/embeddings`: OpenAI's API, for images as data URLs."""

import json
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.answers import answered, as_json
from serving.api.bodies import body_of, content_type
from serving.api.documents import beside, parsed
from serving.api.encoded import from_data_url
from serving.api.problems import MEDIA_TYPE
from serving.api.refusals import FINGERPRINT, OF_IMAGES, Refusals
from serving.api.refused import bad_content_type, bad_field, too_many
from serving.api.routes import QueryRoute
from serving.api.schemas import EXAMPLE_IMAGE, EmbeddingsRequest, EmbeddingsResponse
from serving.api.uploads import Upload
from serving.models import Models

_PATH = "/v1/embeddings"
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
    _PATH,
    summary="Embed images as OpenAI's API does",
    response_model=EmbeddingsResponse,
    responses=_ANSWER | OF_IMAGES,
    openapi_extra=_BODY,
)
async def embeddings(request: Request) -> Response:
    """Embed images given as data URLs, for clients of OpenAI's embeddings API.

    Nothing is fetched: `http:`, `https:` and `file:` URLs are refused, and so are text
    and tokens. Each result has an `ood` beside what OpenAI's has, and each problem an
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


class OpenAIErrors:
    """Give the problems of this route an `error`, which OpenAI's clients look for.

    Their exceptions show `error.message` and nothing else of a body. An image is
    `input[…]` there. It goes outside of whatever else may refuse a request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, and complete the problem that comes out of it."""
        if scope["type"] != "http" or scope["path"] != _PATH:
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def completed(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_problem(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    content = _with_error(body)
                    headers = MutableHeaders(raw=start["headers"])
                    headers["content-length"] = str(len(content))
                    await send(start)
                    await send({"type": "http.response.body", "body": content})

        await self._app(scope, receive, completed)


def _is_problem(start: Message) -> bool:
    found = MutableHeaders(raw=start["headers"]).get("content-type", "")
    return found.startswith(MEDIA_TYPE)


def _with_error(body: bytes) -> bytes:
    problem = json.loads(body)
    if problem["detail"].startswith("images["):  # as the other routes call it
        problem["detail"] = "input" + problem["detail"].removeprefix("images")
    kind = HTTPStatus(problem["status"]).name.lower()
    problem["error"] = {"message": problem["detail"], "type": kind, "code": kind}
    return json.dumps(problem).encode()
