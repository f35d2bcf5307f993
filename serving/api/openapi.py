"""The OpenAPI document, committed beside this module as `openapi.json`.

After a change of the interface, write it again:
`python -m serving.api.openapi > serving/api/openapi.json`.
"""

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from isogon.images import ACCEPTED
from serving.api.schemas import Problem

COMMITTED = Path(__file__).with_name("openapi.json")

_ABOUT = f"""\
Unit-norm embeddings of images, and calibrated out-of-distribution scores.

* **Embeddings** are compared by cosine. An index belongs to one `fingerprint`: embeddings
  of different fingerprints cannot be compared. Every answer has its fingerprint.
* **Scores** are larger when an image is less familiar. Decide by the p-value, the chance
  that a familiar (in-distribution) image scores at least as much: `is_ood` is
  `p_value <= alpha`, which flags at most a share `alpha` of familiar images.
* **Images** are {ACCEPTED},
  in the body of the request; the service fetches no URL. Colours are converted to sRGB,
  transparent images are put on white, and the first image of an animation or of several
  pages is used. If an image does not decode, only its own request is refused; the
  problem's `index` says which image it was.
* **Problems** are `application/problem+json` (RFC 9457); `detail` says what to do.
* **Keys**, if the operator asks for them, go into `Authorization: Bearer …` or
  `X-API-Key: …`.
"""
_TAGS = [
    {"name": "images", "description": "Images in, embeddings and scores out."},
    {"name": "KServe", "description": "The same with KServe's protocol, as Triton has it."},
    {"name": "models", "description": "What is served, and the evidence for it."},
]
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_OF_FASTAPI = ("HTTPValidationError", "ValidationError")  # we answer with problems


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of the application."""
    found = get_openapi(
        title=app.title,
        version=app.version,
        description=_ABOUT,
        routes=app.routes,
        tags=_TAGS,
    )
    components = found["components"]
    for name in _OF_FASTAPI:
        components["schemas"].pop(name, None)
    components["schemas"]["Problem"] = Problem.model_json_schema()
    components["securitySchemes"] = _KEYS
    found["security"] = [{}, {"bearer": []}, {"key": []}]  # {}: for a service without keys
    return found


def written(app: FastAPI) -> str:
    """Return the document as it is committed: with sorted keys, for readable diffs."""
    return json.dumps(document(app), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    from serving.app import create_app

    print(written(create_app()), end="")
