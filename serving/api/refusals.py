"""How the routes may refuse, as the OpenAPI document has it."""

from typing import Any

from serving.api.problems import MEDIA_TYPE

Refusals = dict[int | str, dict[str, Any]]

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
        "The service wants an API key, and this is none of them.",
        WWW_Authenticate="How to send one: `Bearer`.",
    ),
    404: _refusal("No model of that name is served here; the detail lists those that are."),
    422: _refusal("A field is missing, unknown or malformed; the detail says which."),
    500: _refusal("The service failed, through no fault of the request; its log says why."),
}

OF_IMAGES: Refusals = OF_ANY | {
    400: _refusal(
        "An image does not decode, or a body is malformed: no multipart, or no JSON."
    ),
    408: _refusal("The body did not arrive in time, or too slowly while others waited."),
    413: _refusal(
        "Past a limit on bytes, pixels or images. The connection may be closed before "
        "the body is read to its end."
    ),
    415: _refusal(
        "A content type, a content encoding or a kind of image that is not accepted."
    ),
    429: _refusal(
        "The queue is full, memory for bodies is, or this client has its share of it. "
        "Wait, then send the same request again.",
        Retry_After="After how many seconds to try again.",
    ),
    503: _refusal(
        "The service is shutting down, or the machine has no memory left.",
        Retry_After="After how many seconds to try again.",
    ),
    504: _refusal("No answer within the deadline; the work was dropped."),
}

NOT_ACCEPTABLE: Refusals = {
    406: _refusal("None of the formats of this answer is in the Accept header."),
}

# Of every answer about images.
FINGERPRINT = {
    "x-isogon-fingerprint": {
        "description": "SHA-256 of the artifact that ran. Embeddings of different "
        "fingerprints do not compare.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    }
}
