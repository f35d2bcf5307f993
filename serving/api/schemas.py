"""The bodies of requests and responses."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bundle import Figures, Preprocessing, StudentCard, TeacherCard

Encoding = Literal["float", "base64"]


class Base64Images(BaseModel):
    """A JSON request: the images' bytes in base64, without a data-URL prefix."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(min_length=1)


class ModelName(BaseModel):
    """Which model answered; embeddings of different fingerprints do not compare."""

    name: str
    fingerprint: str = Field(description="SHA-256 of the artifact that ran")


class Ood(BaseModel):
    """How unfamiliar an image is."""

    score: float = Field(description="larger means less familiar; the detector's scale")
    p_value: float = Field(description="chance that a familiar image scores at least this")
    is_ood: bool = Field(description="p_value <= the false-alarm rate asked for")


class ScoreResult(BaseModel):
    """One image's OOD score."""

    ood: Ood


class EmbedResult(ScoreResult):
    """One image's unit-norm embedding and OOD score."""

    embedding: list[float] | str = Field(
        description="numbers, or with encoding=base64 little-endian float32 bytes"
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


class CalibrationCard(BaseModel):
    """What decisions rest on."""

    alpha: float
    images: int


class ModelResponse(ModelName):
    """What is served, and what vouches for it."""

    width: int
    space: str
    artifact: str
    runner: str
    preprocessing: Preprocessing
    student: StudentCard
    teacher: TeacherCard
    parity: Figures
    calibration: CalibrationCard


class Problem(BaseModel):
    """An error, as RFC 9457 has it (`application/problem+json`)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    index: int | None = Field(
        default=None, description="which image of the request, from 0"
    )
