"""The bodies of requests and responses, as pydantic models."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from isogon.bundle import FalseAlarms, Provenance, StudentCard, TeacherCard
from isogon.images import FORMATS, Preprocessing
from isogon.parity import Figures, Stability, Tolerance
from isogon.runtimes import Precision
from serving.api.evaluation_card import EvaluationCard

Encoding = Literal["float", "base64"]

_Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
_KINDS = "|".join(
    re.escape(kind.removeprefix("image/")) for each in FORMATS for kind in each.types
)
_DataUrl = Annotated[
    str,
    Field(
        json_schema_extra={
            "pattern": f"^data:image/({_KINDS});base64,[A-Za-z0-9+/]+={{0,2}}$"
        }
    ),
]
# An unknown field may be null, and is ignored then; see `json_bodies.py`.
_REQUEST = ConfigDict(
    extra="forbid",
    strict=True,
    json_schema_extra={"additionalProperties": {"type": "null"}},
)
_Model = Annotated[
    str | None,
    Field(description="name of the model that answers; absent or empty: the default"),
]

# A PNG of one grey pixel, for the OpenAPI document.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5E"
    "rkJggg=="
)


class Base64Images(BaseModel):
    """A JSON request: the images' bytes in base64, or as data URLs."""

    model_config = _REQUEST

    images: list[_Base64] = Field(min_length=1)
    model: _Model = None


def _listed(value: object) -> object:
    """Return a list of images; refuse token ids, of one text or of several."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        first = value[0][0] if isinstance(value[0], list) and value[0] else value[0]
        if isinstance(first, int):
            raise ValueError("this model embeds images, not the token ids of a text")
    return value


class EmbeddingsRequest(BaseModel):
    """OpenAI's request for embeddings, of images as data URLs."""

    model_config = _REQUEST

    input: Annotated[
        list[str],
        BeforeValidator(_listed, json_schema_input_type=_DataUrl | list[_DataUrl]),
        Field(
            min_length=1,
            description="an image, or several: `data:image/jpeg;base64,…`. Other URLs, "
            "text and tokens are refused; the service fetches nothing",
        ),
    ]
    model: _Model = None
    encoding_format: Encoding | None = Field(
        default=None,
        description="float (the default): numbers; base64: little-endian float32",
    )
    dimensions: int | None = Field(
        default=None,
        description="must be the model's embedding dimension; embeddings are not shortened",
    )
    user: str | None = Field(default=None, description="accepted and ignored")


class ModelName(BaseModel):
    """Which model answered; embeddings of different fingerprints cannot be compared."""

    name: str
    fingerprint: str = Field(
        description="SHA-256 of the artifact that ran", examples=["6ca7…bd85"]
    )


class Ood(BaseModel):
    """How unfamiliar (out-of-distribution) an image is, and the decision."""

    score: float = Field(description="larger means less familiar; the detector's scale")
    p_value: float = Field(
        ge=0,
        le=1,
        description="chance that a familiar (in-distribution) image scores at least this",
    )
    is_ood: bool = Field(description="p_value <= the false-alarm rate asked for")


class ScoreResult(BaseModel):
    """One image's OOD score."""

    ood: Ood


class EmbedResult(ScoreResult):
    """One image's unit-norm embedding and OOD score."""

    embedding: list[float] | str = Field(
        description="numbers, each the shortest that reads back as the same float32; with "
        "encoding=base64: little-endian float32 bytes"
    )


class ScoreResponse(BaseModel):
    """Results in the order of the request's images."""

    model: ModelName
    results: list[ScoreResult]


class EmbedResponse(BaseModel):
    """Results in the order of the request's images."""

    model: ModelName
    width: int
    results: list[EmbedResult]


class Embedding(BaseModel):
    """One image's embedding as in OpenAI's API, and its OOD score."""

    object: Literal["embedding"]
    index: int = Field(description="which image of the request, from 0")
    embedding: list[float] | str = Field(
        description="unit-norm numbers, or base64 of little-endian float32"
    )
    ood: Ood


class Usage(BaseModel):
    """The usage that OpenAI counts in tokens: here each image counts as one."""

    prompt_tokens: int = Field(description="images in the request")
    total_tokens: int = Field(description="the same number")


class EmbeddingsResponse(BaseModel):
    """OpenAI's answer, in the order of the request's images."""

    object: Literal["list"]
    data: list[Embedding]
    model: str = Field(description="the model's name")
    usage: Usage


class ParityCard(Figures):
    """The largest differences between the artifact and its reference."""

    precision: Precision
    reference: str = Field(description="what the artifact was compared with")
    candidate: str = Field(description="what ran the artifact for the comparison")
    batch_sizes: tuple[int, ...]
    stability: Stability
    bounds: Tolerance = Field(description="the bounds that the figures had to keep")


class RateRange(BaseModel):
    """A range of rates."""

    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class CalibrationCard(BaseModel):
    """What decisions are based on, and what is known of their false alarms."""

    alpha: float = Field(
        description="the false-alarm rate asked for: flagged if p_value <= alpha"
    )
    images: int = Field(description="held-out in-distribution images used for calibration")
    expected: RateRange = Field(
        description="the 95 % interval of this calibration's false-alarm rate, on traffic "
        "like the calibration images; it depends only on how many they are (Vovk, "
        "arXiv:1209.2673)"
    )
    realised: FalseAlarms | None = Field(
        description="the share of other held-out in-distribution images that was flagged, "
        "with its 95 % interval; null if it was not measured for this detector and alpha"
    )


class LimitsCard(BaseModel):
    """What a request may hold."""

    images: int
    body_bytes: int
    image_bytes: int
    image_pixels: int


class ModelResponse(ModelName):
    """What is served, and the evidence for it."""

    schema_version: int = Field(description="of the bundle's format")
    width: int = Field(description="of the embedding")
    space: Literal["student", "teacher"] = Field(description="the space of the embeddings")
    artifact: str
    runner: str = Field(description="what runs the artifact now")
    preprocessing: Preprocessing
    student: StudentCard
    teacher: TeacherCard
    provenance: Provenance
    parity: ParityCard
    calibration: CalibrationCard
    evaluation: EvaluationCard | None = Field(
        description="null if the bundle has none that this version can read"
    )
    limits: LimitsCard


class Problem(BaseModel):
    """An error, as in RFC 9457 (`application/problem+json`)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="what was expected, what came, what to do")
    index: int | None = Field(
        default=None, description="which image of the request, from 0"
    )
