"""The service's answers: as arrays, or as errors.

ClientError
├── RefusedError        the service answered with a problem
├── UnreachableError    no service answered, or something else than the service
└── FingerprintError    another model answered than expected
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from jaxtyping import Bool, Float, Float32


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """How unfamiliar (out-of-distribution) images are, in the order given."""

    scores: Float[np.ndarray, " b"]  # larger is less familiar
    p_values: Float[np.ndarray, " b"]  # chance that a familiar image scores as much
    is_ood: Bool[np.ndarray, " b"]  # p_value <= the service's false-alarm rate
    fingerprint: str  # of the model that answered


@dataclass(frozen=True, kw_only=True, slots=True)
class Embeddings:
    """Unit-norm embeddings, and how unfamiliar the images are."""

    embeddings: Float32[np.ndarray, "b d"]
    scores: Float[np.ndarray, " b"]  # larger is less familiar
    p_values: Float[np.ndarray, " b"]  # chance that a familiar image scores as much
    is_ood: Bool[np.ndarray, " b"]  # p_value <= the service's false-alarm rate
    fingerprint: str  # embeddings compare with those of the same fingerprint


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What is served; `document` is the whole answer of `GET /v1/model`."""

    name: str
    fingerprint: str
    width: int  # of the embedding
    max_images: int  # in one request
    max_body_bytes: int
    max_image_bytes: int  # of one encoded image
    max_image_pixels: int  # width x height
    document: Mapping[str, Any]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "ModelCard":
        """Return the card in an answer."""
        return cls(
            name=document["name"],
            fingerprint=document["fingerprint"],
            width=document["width"],
            max_images=document["limits"]["images"],
            max_body_bytes=document["limits"]["body_bytes"],
            max_image_bytes=document["limits"]["image_bytes"],
            max_image_pixels=document["limits"]["image_pixels"],
            document=document,
        )


def scores_of(results: Sequence[Mapping[str, Any]], fingerprint: str) -> Scores:
    """Return the scores in the results of one model."""
    oods = [result["ood"] for result in results]
    # NaN is sent as null.
    return Scores(
        scores=np.array([ood["score"] for ood in oods], dtype=np.float64),
        p_values=np.array([ood["p_value"] for ood in oods], dtype=np.float64),
        is_ood=np.array([ood["is_ood"] for ood in oods], dtype=np.bool_),
        fingerprint=fingerprint,
    )


def embeddings_of(
    results: Sequence[Mapping[str, Any]], fingerprint: str, width: int
) -> Embeddings:
    """Return the embeddings (sent in base64) and scores in one model's results."""
    packed = b"".join(base64.b64decode(result["embedding"]) for result in results)
    numbers = np.frombuffer(packed, "<f4").astype(np.float32)
    scores = scores_of(results, fingerprint)
    return Embeddings(
        embeddings=numbers.reshape(len(results), width),
        scores=scores.scores,
        p_values=scores.p_values,
        is_ood=scores.is_ood,
        fingerprint=fingerprint,
    )


class ClientError(Exception):
    """The base of every error of a client."""


class RefusedError(ClientError):
    """The service refused a request; `detail` says what to do."""

    def __init__(
        self, status: int, title: str, detail: str, index: int | None = None
    ) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.index = index  # of the image it is about, among all given; None: not one image


class UnreachableError(ClientError):
    """No service answered at the address."""


class FingerprintError(ClientError):
    """Another model answered than expected, so its embeddings cannot be compared."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(
            f"Expected the model with the fingerprint {expected[:12]}…, but "
            f"{found[:12]}… answered. Their embeddings cannot be compared: embed the index "
            f"again, or serve the model that made it."
        )
        self.expected = expected
        self.found = found


def refusal(response: httpx.Response, start: int) -> RefusedError:
    """Return the error for an answer that is not a success.

    Args:
        response: of the service, or of a proxy.
        start: index of this request's first image, among all given.
    """
    title, detail, index = response.reason_phrase, response.text[:300], None
    problem = _problem(response)
    if problem:
        title, detail = problem.get("title", title), problem.get("detail", detail)
        index = problem.get("index")
        if isinstance(index, int):
            detail = detail.replace(f"images[{index}]", f"images[{start + index}]", 1)
            index += start
    return RefusedError(response.status_code, title, detail, index)


def _problem(response: httpx.Response) -> dict[str, Any]:
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return {}
    try:
        problem = response.json()
    except ValueError:  # it was cut off
        return {}
    return problem if isinstance(problem, dict) else {}
