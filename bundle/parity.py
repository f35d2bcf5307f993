"""Two runners on the same pixels: how far apart are they, and is that allowed?

Running and judging are separate. `figures` measures; a `ParityReport` holds the
figures, the bounds, and the SHA-256 of the one artifact it vouches for (rule 4),
together with that artifact's own calibration (rule 5).
"""

import numpy as np
from jaxtyping import Bool, Float32, Int
from pydantic import BaseModel, ConfigDict, Field

from bundle.calibration import Calibration
from bundle.runners import Outputs

NEIGHBOURS = 10


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Tolerance(_Record):
    """The bounds an artifact must keep.

    The defaults are for float32 artifacts. Measured on CPU (torch 2.15, ONNX Runtime
    1.31; README, "What was verified where"): max_abs_error up to 6e-7, min_cosine
    1 - 1e-6, both agreements 1. An agreement below 1 needs two images closer to
    each other, or to the threshold, than that error.
    """

    max_abs_error: float = 1e-4
    min_cosine: float = 0.99999
    neighbour_agreement: float = 0.99
    decision_agreement: float = 0.99


class Figures(_Record):
    """The worst disagreement seen, NaN included."""

    images: int
    max_abs_error: float  # over coordinates of unit-norm embeddings
    min_cosine: float  # over images
    neighbour_agreement: float  # mean share of the 10 nearest that are the same
    decision_agreement: float  # share of images with the same is_ood

    @classmethod
    def none(cls) -> "Figures":
        """Return the figures of a comparison that has seen nothing."""
        return cls(
            images=0,
            max_abs_error=0.0,
            min_cosine=1.0,
            neighbour_agreement=1.0,
            decision_agreement=1.0,
        )

    def worst(self, other: "Figures") -> "Figures":
        """Return the worse of both, field by field. A NaN stays."""
        return type(self)(
            images=self.images + other.images,
            max_abs_error=float(np.maximum(self.max_abs_error, other.max_abs_error)),
            min_cosine=float(np.minimum(self.min_cosine, other.min_cosine)),
            neighbour_agreement=float(
                np.minimum(self.neighbour_agreement, other.neighbour_agreement)
            ),
            decision_agreement=float(
                np.minimum(self.decision_agreement, other.decision_agreement)
            ),
        )

    def failures(self, tolerance: Tolerance) -> tuple[str, ...]:
        """Return each broken bound, in one line. Nothing compared is a failure."""
        found = []
        if self.images == 0:
            found.append("no images were compared")
        if not self.max_abs_error <= tolerance.max_abs_error:
            found.append(
                f"max_abs_error {self.max_abs_error:.3g} "
                f"exceeds {tolerance.max_abs_error:.3g}"
            )
        for name in ("min_cosine", "neighbour_agreement", "decision_agreement"):
            value, bound = getattr(self, name), getattr(tolerance, name)
            if not value >= bound:
                found.append(f"{name} {value:.6f} is below {bound:.6f}")
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
    return Figures(
        images=len(reference),
        max_abs_error=float(np.abs(reference.embeddings - candidate.embeddings).max()),
        min_cosine=float((reference.embeddings * candidate.embeddings).sum(axis=1).min()),
        neighbour_agreement=neighbour_agreement(reference.embeddings, candidate.embeddings),
        decision_agreement=agreement,
    )


def neighbour_agreement(
    reference: Float32[np.ndarray, "b d"], candidate: Float32[np.ndarray, "b d"]
) -> float:
    """Return the mean share of each image's 10 nearest others that both agree on.

    With fewer than 11 images all others are neighbours. One image has none: 1.
    """
    k = min(NEIGHBOURS, len(reference) - 1)
    if k < 1:
        return 1.0
    if not np.isfinite(candidate).all():
        return float("nan")
    ours, theirs = _nearest(reference, k), _nearest(candidate, k)
    shared = [len(set(a) & set(b)) for a, b in zip(ours, theirs, strict=True)]
    return float(np.mean(shared)) / k


def _nearest(embeddings: Float32[np.ndarray, "b d"], k: int) -> Int[np.ndarray, "b k"]:
    cosines = embeddings @ embeddings.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argpartition(-cosines, k - 1, axis=1)[:, :k]
