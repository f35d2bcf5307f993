"""What routes share: the refusals that OpenAPI lists, and a check of the query."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from serving.api.problems import MEDIA_TYPE, bad_field

Refusals = dict[int | str, dict[str, Any]]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
_SCHEMA = {"$ref": "#/components/schemas/Problem"}


def _refusal(description: str, **headers: str) -> dict[str, Any]:
    refusal: dict[str, Any] = {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": _SCHEMA}},
    }
    if headers:
        refusal["headers"] = {
            name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        }
    return refusal


OF_ANY: Refusals = {
    401: _refusal(
        "The request shows no API key that the service knows.",
        WWW_Authenticate="How to send one: `Bearer`.",
    ),
    404: _refusal("No model of that name is served here; the detail lists those that are."),
    422: _refusal("A field is missing, unknown or malformed; the detail says which."),
    500: _refusal(
        "The service failed; the request is not to blame. Its log has the reason."
    ),
}

OF_IMAGES: Refusals = OF_ANY | {
    400: _refusal(
        "An image does not decode, or the body is not well-formed multipart or JSON."
    ),
    408: _refusal("The body did not arrive in time, or too slowly while others waited."),
    413: _refusal(
        "The request exceeds a limit on bytes, pixels or images. The service may close "
        "the connection before it has read the whole body."
    ),
    415: _refusal(
        "A content type, a content encoding or a kind of image that is not accepted."
    ),
    429: _refusal(
        "The queue or the memory for bodies is full, or this client uses all of its share "
        "of that memory. Wait, then send the same request again.",
        Retry_After="After how many seconds to try again.",
    ),
    503: _refusal(
        "The service is shutting down, or the machine has no memory left.",
        Retry_After="After how many seconds to try again.",
    ),
    504: _refusal("The request was not answered within the deadline, and was dropped."),
}

NOT_ACCEPTABLE: Refusals = {
    406: _refusal("None of the formats of this answer is in the Accept header."),
}

# The headers of every answer about images.
FINGERPRINT = {
    "x-isogon-fingerprint": {
        "description": "SHA-256 of the artifact that ran. Embeddings of different "
        "fingerprints cannot be compared.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    }
}


class KnownQueryRoute(APIRoute):
    """A route that refuses unknown and repeated query parameters.

    FastAPI ignores a misspelt parameter: the request would be answered by another model
    or in another encoding than the client asked for.
    """

    def get_route_handler(self) -> Handler:
        """Return the function that answers a request."""
        solved = super().get_route_handler()
        known = {parameter.alias for parameter in self.dependant.query_params}

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                _require_known(
                    [name for name, _ in request.query_params.multi_items()], known
                )
            return await solved(request)

        return handle


class QueryRoute(KnownQueryRoute):
    """A `KnownQueryRoute` whose endpoint takes the request and optional query parameters.

    Without a query the endpoint is called directly, with the defaults. FastAPI's
    dependencies took an eighth of the event loop's time for a request of one image.
    """

    def get_route_handler(self) -> Handler:
        """Return the function that answers a request."""
        solved = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                return await solved(request)
            answer: Response = await self.endpoint(request)
            return answer

        return handle


def _require_known(asked: list[str], known: set[str]) -> None:
    if unknown := sorted(set(asked) - known):
        has = ", ".join(sorted(known)) or "none"
        raise bad_field(
            f"The query has {', '.join(map(repr, unknown))}; this route's parameters are: "
            f"{has}."
        )
    if twice := {name for name in asked if asked.count(name) > 1}:
        raise bad_field(f"The query has {', '.join(sorted(twice))} twice. Give one value.")
