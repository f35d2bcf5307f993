"""What the report draws beside the figures of the evaluation: points, scores, images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from isogon.bundle import Manifest

UNFAMILIAR = -1  # in `EmbeddingMap.labels`


@dataclass(frozen=True, kw_only=True, slots=True)
class CosinePairs:
    """The cosines of the same image pairs under both models."""

    teacher: Float32[np.ndarray, " m"]
    student: Float32[np.ndarray, " m"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The student's OOD scores by the detector in force; larger is less familiar."""

    detector: str
    alpha: float  # the false-alarm rate that was asked for
    calibrated_on: int  # familiar images
    threshold: float  # a score above it is flagged; see `Calibration.threshold`
    familiar: Float[np.ndarray, " t"]  # of test images
    unfamiliar: Mapping[str, Float[np.ndarray, " _"]]  # by set


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image of the data as it is shown: small."""

    index: int  # in its set; two pictures with one index are the same image
    pixels: UInt8[np.ndarray, "h w 3"]
    label: str | None = None  # the name of its class


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A test image and its nearest images of the bank, nearest first."""

    image: Picture
    student: tuple[Picture, ...]
    teacher: tuple[Picture, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingMap:
    """Embeddings of test and unfamiliar images in the plane; see `embedding_map`."""

    student: Float[np.ndarray, "n 2"]
    teacher: Float[np.ndarray, "n 2"] | None  # the same images, in the same order
    labels: Int[np.ndarray, " n"]  # class numbers, or UNFAMILIAR; zeros without classes
    classes: tuple[str, ...]  # their names; empty without classes


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Everything on the page that `evaluation.json` does not hold."""

    manifest: Manifest  # name, models and provenance; its `files` are not looked at
    recipe: str  # the TOML that was run
    cosines: CosinePairs | None = None  # None without teacher embeddings
    scores: Scores | None = None
    queries: tuple[Query, ...] = ()
    map: EmbeddingMap | None = None
