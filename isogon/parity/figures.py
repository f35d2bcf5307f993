"""The differences between two runners' outputs for the same images."""

import numpy as np
from jaxtyping import Bool, Float, Float32

from isogon.ood.neighbours import BLOCK, NEIGHBOURS, neighbour_overlap
from isogon.parity.tolerance import SIGNS, Check, ParityRecord, Tolerance
from isogon.runtimes import Outputs

# Cosines this close count as equal, because rounding may reorder duplicates.
_TIE = 1e-5

# Scores that differ by at most this share of their range count as equal too: images in the
# detector's bank all have score zero, up to rounding.
_SCORE_TIE = 1e-3

# Infinities stay or become NaN, and either breaks a bound, so numpy need not warn.
_unwarned = np.errstate(over="ignore", invalid="ignore")


class Figures(ParityRecord):
    """The worst difference from the reference; NaN stays NaN."""

    images: int
    max_abs_error: float  # over coordinates of unit-norm embeddings
    max_norm_error: float  # |length - 1| of the candidate's embeddings
    min_cosine: float  # over images
    mean_cosine: float
    neighbour_agreement: float  # mean share of the 10 nearest that are the same
    max_score_error: float  # over OOD scores, in units of the reference's range
    # Spearman's; differences within 1/1000 of the range are ties.
    score_rank_correlation: float
    decision_agreement: float  # share of images with the same is_ood

    @classmethod
    def none(cls) -> "Figures":
        """Return the figures of no comparison."""
        return cls(
            images=0,
            max_abs_error=0.0,
            max_norm_error=0.0,
            min_cosine=1.0,
            mean_cosine=1.0,
            neighbour_agreement=1.0,
            max_score_error=0.0,
            score_rank_correlation=1.0,
            decision_agreement=1.0,
        )

    def worst(self, other: "Figures") -> "Figures":
        """Return the worse of both, field by field; NaN stays NaN."""
        values: dict[str, float] = {"images": self.images + other.images}
        for name in _bounded(Figures):
            worse = np.maximum if SIGNS[name] == "<=" else np.minimum
            values[name] = float(worse(getattr(self, name), getattr(other, name)))
        return Figures.model_validate(values)

    def checks(self, tolerance: Tolerance) -> tuple[Check, ...]:
        """Return every figure with its bound; a check is false if the bound is broken."""
        return tuple(
            tolerance.check(name, getattr(self, name)) for name in _bounded(Figures)
        )

    def failures(self, tolerance: Tolerance) -> tuple[str, ...]:
        """Return each broken bound, in one line. No comparison is a failure too."""
        found = [str(check) for check in self.checks(tolerance) if not check]
        if self.images == 0:
            found.append("no images were compared")
        return tuple(found)


class Stability(ParityRecord):
    """The largest change of a coordinate between runs of the same runner."""

    batch_invariance: float  # in another batch size, or another position of the batch
    determinism: float  # when the same batches are run again

    def checks(self, tolerance: Tolerance) -> tuple[Check, ...]:
        """Return both figures with their bounds."""
        return tuple(
            tolerance.check(name, getattr(self, name)) for name in _bounded(Stability)
        )


@_unwarned
def figures(
    reference: Outputs,
    candidate: Outputs,
    *,
    reference_is_ood: Bool[np.ndarray, " b"],
    candidate_is_ood: Bool[np.ndarray, " b"],
) -> Figures:
    """Measure the differences between two runners' outputs for the same images."""
    if not len(reference):
        return Figures.none()
    agreement = float((reference_is_ood == candidate_is_ood).mean())
    if not np.isfinite(candidate.ood_scores).all():
        agreement = float("nan")
    lengths = np.linalg.norm(candidate.embeddings.astype(np.float64), axis=1)
    cosines = _cosines(reference.embeddings, candidate.embeddings)
    errors = score_errors(
        reference.ood_scores, candidate.ood_scores, among=reference.ood_scores
    )
    scores = np.where(errors <= _SCORE_TIE, reference.ood_scores, candidate.ood_scores)
    return Figures(
        images=len(reference),
        max_abs_error=largest_change(reference.embeddings, candidate.embeddings),
        max_norm_error=float(np.abs(lengths - 1).max()),
        min_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        neighbour_agreement=_agreement(reference.embeddings, candidate.embeddings),
        max_score_error=float(errors.max()),
        score_rank_correlation=rank_correlation(reference.ood_scores, scores),
        decision_agreement=agreement,
    )


@_unwarned
def score_errors(
    reference: Float[np.ndarray, " _"],
    candidate: Float[np.ndarray, " _"],
    *,
    among: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " _"]:
    """Return the differences of scores, in units of the range of the scores `among`."""
    errors: np.ndarray = np.abs(reference - candidate) / (np.ptp(among) or np.float32(1))
    return errors


def largest_change(
    one: Float32[np.ndarray, "... d"], other: Float32[np.ndarray, "... d"]
) -> float:
    """Return the largest difference of a coordinate; NaN stays NaN."""
    changes = np.abs(one - other)
    return float(changes.max()) if changes.size else 0.0


def rank_correlation(one: Float[np.ndarray, " b"], other: Float[np.ndarray, " b"]) -> float:
    """Return Spearman's rank correlation; equal values share their mean rank.

    It is 1 if both are constant, and NaN if only one is, or if a value is NaN.
    """
    if np.isnan(one).any() or np.isnan(other).any():
        return float("nan")
    ours, theirs = _ranks(one), _ranks(other)
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    spread = np.sqrt((ours @ ours) * (theirs @ theirs))
    if spread > 0:
        return float(ours @ theirs / spread)
    return float("nan") if ours.any() or theirs.any() else 1.0


def _agreement(
    reference: Float32[np.ndarray, "b d"], candidate: Float32[np.ndarray, "b d"]
) -> float:
    """Return the mean overlap of nearest neighbours; 1 for a single image."""
    count = len(reference)
    if count < 2:
        return 1.0
    overlaps, sizes = [], []
    for start in range(0, count, BLOCK):  # never all pairs at once
        rows = np.arange(start, min(start + BLOCK, count))
        ours, theirs = reference[rows] @ reference.T, candidate[rows] @ candidate.T
        for cosines in (ours, theirs):
            cosines[rows - start, rows] = -np.inf
        k = min(NEIGHBOURS, count - 1)
        overlaps.append(neighbour_overlap(ours, theirs, k=k, tie=_TIE))
        sizes.append(len(rows))
    return float(np.average(overlaps, weights=sizes))


def _cosines(
    reference: Float32[np.ndarray, "b d"], candidate: Float32[np.ndarray, "b d"]
) -> Float[np.ndarray, " b"]:
    """Return each pair's cosine in float64; NaN for a vector of zeros."""
    ours, theirs = reference.astype(np.float64), candidate.astype(np.float64)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return np.asarray(np.einsum("bd,bd->b", ours, theirs) / lengths)


def _ranks(values: Float[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(mean_rank[place])


def _bounded(record: type[ParityRecord]) -> tuple[str, ...]:
    return tuple(name for name in SIGNS if name in record.model_fields)
