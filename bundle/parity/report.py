"""Two runners on the same pixels: how far apart are they, and is that allowed?

Running and judging are separate. `figures` measures; a `ParityReport` holds the
figures, the bounds, and the SHA-256 of the one artifact it vouches for (rule 4),
together with that artifact's own calibration (rule 5).
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32
from pydantic import BaseModel, ConfigDict, Field

from bundle.calibration import Calibration
from bundle.neighbours import NEIGHBOURS, neighbour_overlap
from bundle.runners import Outputs

# Cosines closer than this are equal: duplicates have no order for rounding to keep.
_TIE = 1e-5


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Tolerance(_Record):
    """The bounds an artifact must keep.

    The defaults are for float32 artifacts. Measured on CPU (torch 2.15, ONNX Runtime
    1.31; README, "What was verified where"): max_abs_error up to 6e-7, min_cosine
    1 - 1e-6, max_score_error 4e-6, both agreements 1. A decision may differ for an
    image closer to the threshold than that error.
    """

    max_abs_error: float = 1e-4
    min_cosine: float = 0.99999
    neighbour_agreement: float = 0.99
    max_score_error: float = 1e-3
    decision_agreement: float = 0.99


Sign = Literal["<=", ">="]

# Which way each figure is bounded, in the order in which they are shown.
_SIGNS: dict[str, Sign] = {
    "max_abs_error": "<=",
    "min_cosine": ">=",
    "neighbour_agreement": ">=",
    "max_score_error": "<=",
    "decision_agreement": ">=",
}


class Check(NamedTuple):
    """One figure against its bound."""

    name: str
    seen: float
    sign: Sign
    bound: float

    def __bool__(self) -> bool:
        return self.seen <= self.bound if self.sign == "<=" else self.seen >= self.bound

    def __str__(self) -> str:
        verb = "exceeds" if self.sign == "<=" else "is below"
        return f"{self.name} {self.seen:.8g} {verb} {self.bound:g}"


class Figures(_Record):
    """The worst disagreement seen, NaN included."""

    images: int
    max_abs_error: float  # over coordinates of unit-norm embeddings
    min_cosine: float  # over images
    neighbour_agreement: float  # mean share of the 10 nearest that are the same
    max_score_error: float  # over OOD scores, in units of the reference's range
    decision_agreement: float  # share of images with the same is_ood

    @classmethod
    def none(cls) -> "Figures":
        """Return the figures of a comparison that has seen nothing."""
        return cls(
            images=0,
            max_abs_error=0.0,
            min_cosine=1.0,
            neighbour_agreement=1.0,
            max_score_error=0.0,
            decision_agreement=1.0,
        )

    def worst(self, other: "Figures") -> "Figures":
        """Return the worse of both, field by field. A NaN stays."""
        values: dict[str, float] = {"images": self.images + other.images}
        for name, sign in _SIGNS.items():
            worse = np.maximum if sign == "<=" else np.minimum
            values[name] = float(worse(getattr(self, name), getattr(other, name)))
        return Figures.model_validate(values)

    def checks(self, tolerance: Tolerance) -> tuple[Check, ...]:
        """Return every figure with its bound; a check is false where it is broken."""
        return tuple(
            Check(name, getattr(self, name), sign, getattr(tolerance, name))
            for name, sign in _SIGNS.items()
        )

    def failures(self, tolerance: Tolerance) -> tuple[str, ...]:
        """Return each broken bound, in one line. Nothing compared is a failure."""
        found = [str(check) for check in self.checks(tolerance) if not check]
        if self.images == 0:
            found.append("no images were compared")
        return tuple(found)


class ParityReport(_Record):
    """What was compared, how it came out, and for which bytes that holds.

    Truthy only if images were compared and every bound holds. NaN fails.
    """

    artifact: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    reference: str
    candidate: str
    batch_sizes: tuple[int, ...]
    figures: Figures
    tolerance: Tolerance
    calibration: Calibration | None  # None only where its scores are not finite

    @property
    def failures(self) -> tuple[str, ...]:
        """Each broken bound, in one line."""
        found = self.figures.failures(self.tolerance)
        if self.calibration is None:
            found += ("its OOD scores are not finite and allow no calibration",)
        return found

    def __bool__(self) -> bool:
        return not self.failures


def figures(
    reference: Outputs,
    candidate: Outputs,
    *,
    reference_is_ood: Bool[np.ndarray, " b"],
    candidate_is_ood: Bool[np.ndarray, " b"],
) -> Figures:
    """Measure how far two runners' answers about the same images are apart."""
    if not len(reference):
        return Figures.none()
    agreement = float((reference_is_ood == candidate_is_ood).mean())
    if not np.isfinite(candidate.ood_scores).all():
        agreement = float("nan")
    differences = np.abs(reference.ood_scores - candidate.ood_scores)
    return Figures(
        images=len(reference),
        max_abs_error=float(np.abs(reference.embeddings - candidate.embeddings).max()),
        min_cosine=float((reference.embeddings * candidate.embeddings).sum(axis=1).min()),
        neighbour_agreement=_agreement(reference.embeddings, candidate.embeddings),
        max_score_error=float(differences.max() / (np.ptp(reference.ood_scores) or 1.0)),
        decision_agreement=agreement,
    )


def _agreement(
    reference: Float32[np.ndarray, "b d"], candidate: Float32[np.ndarray, "b d"]
) -> float:
    """Return the overlap of each image's nearest others; an image alone has none: 1."""
    if len(reference) < 2:
        return 1.0
    ours, theirs = reference @ reference.T, candidate @ candidate.T
    np.fill_diagonal(ours, -np.inf)
    np.fill_diagonal(theirs, -np.inf)
    k = min(NEIGHBOURS, len(reference) - 1)
    return neighbour_overlap(ours, theirs, k=k, tie=_TIE)
