"""From a request's images to its answer: the model's outputs, decisions, and formats."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np
import orjson
from fastapi import Request, Response

from isogon.bundle import Thumbnails
from isogon.model import Answers
from serving.api.bodies import while_connected
from serving.api.problems import ProblemError
from serving.api.schemas import Encoding
from serving.api.uploads import Upload
from serving.models import Models
from serving.observability.observations import Observations

JSON, NPY = "application/json", "application/x-npy"


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestAnswer:
    """A model's outputs and decisions for the images of one request."""

    model: str
    fingerprint: str  # SHA-256 of the artifact that ran
    answers: Answers  # for the images, in their order
    thumbnails: Thumbnails | None  # of reference images, where the bundle ships them

    def embeddings_as(self, encoding: Encoding) -> Sequence[Any]:
        """Return each embedding as `as_json` takes it: an array, or base64 of its bytes."""
        if encoding == "float":
            return list(self.answers.embeddings)
        rows = self.answers.embeddings.astype("<f4")
        return [base64.b64encode(row.tobytes()).decode() for row in rows]

    def oods(self) -> list[dict[str, Any]]:
        """Return `schemas.Ood` for each image."""
        return [
            {"score": score, "p_value": p_value, "is_ood": is_ood}
            for score, p_value, is_ood in zip(
                self.answers.scores,
                self.answers.p_values.tolist(),
                self.answers.is_ood.tolist(),
                strict=True,
            )
        ]


async def answered(request: Request, upload: Upload) -> RequestAnswer:
    """Run the model that the upload names on its images.

    Raises:
        UnknownModelError: no model has this name.
        RefusedImageError: an image does not decode or exceeds a limit.
        QueueFullError: too many images are waiting.
        DeadlineError: it took too long.
        ClientDisconnect: the client left.
    """
    models: Models = request.app.state.models
    async with models.use(upload.model) as pipeline, while_connected(request):
        outputs = await pipeline.answer(upload.images)
    model = pipeline.model
    answers = Answers.of(outputs, model.calibration)
    observations: Observations = request.app.state.observations
    observations.seen(model, answers.scores, answers.is_ood)
    return RequestAnswer(
        model=model.name,
        fingerprint=model.artifact.fingerprint,
        answers=answers,
        thumbnails=model.thumbnails,
    )


def negotiated(accept: str | None, offers: Sequence[str]) -> str:
    """Return the media type that the client prefers; of equal ones, the first offer.

    Raises:
        ProblemError: 406, the client accepts none of them.
    """
    if not accept or not accept.strip():
        return offers[0]
    ranges = [_range(part) for part in accept.split(",")]
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    if _quality(best, ranges) > 0:
        return best
    raise ProblemError(
        HTTPStatus.NOT_ACCEPTABLE,
        f"The Accept header is {accept[:80]!r}. This answer comes as "
        f"{' or '.join(offers)}; name one of them.",
    )


def _range(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return kind, float(value)
            except ValueError:
                return kind, 0.0
    return kind, 1.0


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the weight of the most specific range with the offer; 0 if none has it."""
    weights = dict(reversed(ranges))  # of equal ranges, the first
    family = offer.partition("/")[0] + "/*"
    return next((weights[kind] for kind in (offer, family, "*/*") if kind in weights), 0.0)


def as_json(answer: RequestAnswer, document: Mapping[str, Any]) -> Response:
    """Return a JSON answer; NaN becomes null.

    A float32 of NumPy is written as the shortest decimal that reads back as the same
    number: at most 9 digits, while float64 takes 17.

    `document` is not validated by pydantic: that took ten times as long as writing it.
    The tests check the answers against the OpenAPI document instead.
    """
    content = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return _response(answer, content, JSON)


def as_npy(answer: RequestAnswer, array: np.ndarray) -> Response:
    """Return an array as a NumPy file, which `numpy.load` reads."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return _response(answer, file.getvalue(), NPY)


def _response(answer: RequestAnswer, content: bytes, media_type: str) -> Response:
    headers = {"x-isogon-fingerprint": answer.fingerprint}
    return Response(content, media_type=media_type, headers=headers)
