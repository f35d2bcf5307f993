"""The closed-form start: one ridge regression from the student's features to the teacher.

A small network with pretrained weights already separates images. Its embedding layer is
fitted to the teacher in one step, before training. Fine-tuning starts from this layer,
because a random layer would first damage the features below it (Kumar et al., "Fine-Tuning
can Distort Pretrained Features and Underperform Out-of-Distribution", arXiv:2202.10054).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64

from isogon.ood.knn import directions
from isogon.ood.neighbours import in_blocks

# Ridge strengths to try, in units of the mean eigenvalue of the second moments.
_STRENGTHS = np.logspace(-4, 1, 31)
# Power of the lost spread that is restored. Among 0, 1/4, ... 1 it kept most neighbours of
# unseen images, on each of four kinds of images.
_POWER = 0.5
_SHARES = np.linspace(-0.7, 0.7, 57)  # shares of the mean to try to subtract
_PAIRED = 2048  # images whose pairs choose the share


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedForm:
    """A linear layer without bias, and how it was found."""

    weight: Float32[np.ndarray, "width features"]
    strength: float  # of the ridge, in units of the mean eigenvalue
    share: float  # of the mean prediction that was subtracted


def closed_form(
    features: Float[np.ndarray, "n features"],
    targets: Float[np.ndarray, "n width"],
    teacher: Float[np.ndarray, "n _"],
) -> ClosedForm:
    """Return the layer that maps the student's features to their targets.

        W = argmin sum_i ||W u_i - z_i||^2 + strength * ||W||^2,  u_i = x_i / ||x_i||

    The strength has the least error by generalised cross-validation (Golub, Heath and
    Wahba, 1979). Without a bias the layer ignores the length of its input, which for many
    networks says little about the image. With a bias, unfamiliar (OOD) images are detected
    less well (measured).

    A ridge regression shrinks its predictions towards their mean, most in the directions
    that it predicts worst. Both effects are corrected, on leave-one-out predictions. First
    the spread in each target direction is multiplied by the square root of the lost
    factor std(targets) / std(predictions). The whole factor would give too much weight to
    the directions that are predicted worst, which are mostly noise. Then a share of the
    mean is subtracted, because a common mean makes cosines too large. The share is the one
    whose cosines between images are nearest to the teacher's. (It is negative if the
    targets' own cosines are too small.)

    Args:
        features: the student's pooled vectors of training images, of any norm.
        targets: one target per image, in the student's width; their length counts.
        teacher: the teacher's pooled vectors of the same images, of any norm.
    """
    inputs = directions(features).astype(np.float64)
    wanted = targets.astype(np.float64)
    moments = inputs.T @ inputs
    values, vectors = np.linalg.eigh(moments)
    values = values.clip(min=0)
    projected = vectors.T @ (inputs.T @ wanted)
    strength = _strength(values, projected, wanted)
    damped = values + strength * values.mean()
    weight = vectors @ (projected / damped[:, None])
    unseen = _unseen(inputs @ vectors, damped, inputs @ weight, wanted)
    mean = unseen.mean(axis=0)
    gain = _lost_spread(unseen, wanted) ** _POWER
    share = _share((unseen - mean) * gain + mean, mean, directions(teacher))
    # The weights that predict 1 for every image: the mean's part, as there is no bias.
    constant = vectors @ ((vectors.T @ inputs.sum(axis=0)) / damped)
    level = np.outer(constant, mean)
    weight = (weight - level) * gain + (1 - share) * level
    scale = _mean_norm(wanted) / _mean_norm(features @ weight)
    return ClosedForm(
        weight=np.ascontiguousarray((weight * scale).T, np.float32),
        strength=strength,
        share=share,
    )


def uncentred_pca(
    vectors: Float[np.ndarray, "n d"], width: int
) -> Float32[np.ndarray, "width d"]:
    """Return the leading principal axes of the vectors' directions, as rows.

    No linear map of this rank keeps more of the inner products. If `width` exceeds d, the
    last rows are zero.
    """
    units = directions(vectors).astype(np.float64)
    _, axes = np.linalg.eigh(units.T @ units)
    leading = axes.T[::-1][:width]
    found = np.zeros((width, units.shape[1]), np.float32)
    found[: len(leading)] = leading
    return found


def _strength(
    values: Float64[np.ndarray, " features"],
    projected: Float64[np.ndarray, "features width"],
    wanted: Float64[np.ndarray, "n width"],
) -> float:
    """Return the strength with the least generalised cross-validation error."""
    n, total = len(wanted), float((wanted**2).sum())
    power = (projected**2).sum(axis=1)
    best = (np.inf, float(_STRENGTHS[-1]))
    for strength in _STRENGTHS:
        damped = values + strength * values.mean()
        explained = 2 * (power / damped).sum() - (power * values / damped**2).sum()
        freedom = (values / damped).sum()
        if freedom >= 0.9 * n:  # it interpolates, so its error means nothing
            continue
        error = (total - explained) / n / (1 - freedom / n) ** 2
        best = min(best, (error, float(strength)))
    return best[1]


def _unseen(
    rotated: Float64[np.ndarray, "n features"],
    damped: Float64[np.ndarray, " features"],
    fitted: Float64[np.ndarray, "n width"],
    wanted: Float64[np.ndarray, "n width"],
) -> Float64[np.ndarray, "n width"]:
    """Return each image's prediction by a layer fitted without it, in closed form."""
    leverage = (rotated**2 / damped).sum(axis=1).clip(max=0.99)
    unseen: np.ndarray = wanted - (wanted - fitted) / (1 - leverage)[:, None]
    return unseen


def _lost_spread(
    unseen: Float64[np.ndarray, "n width"], wanted: Float64[np.ndarray, "n width"]
) -> Float64[np.ndarray, " width"]:
    """Return the ratio of the targets' spread to the predictions' spread."""
    predicted = unseen.std(axis=0)
    lost = wanted.std(axis=0) / np.maximum(predicted, np.finfo(np.float64).tiny)
    # A direction that is not predicted at all is not changed: it has no spread.
    return np.where(predicted > 1e-6 * predicted.max(initial=0), lost, 1.0)


def _share(
    unseen: Float64[np.ndarray, "n width"],
    mean: Float64[np.ndarray, " width"],
    teacher: Float[np.ndarray, "n _"],
) -> float:
    """Return the share of the mean whose subtraction makes the cosines most faithful."""
    chosen = np.random.default_rng(0).permutation(len(unseen))[:_PAIRED]
    theirs = teacher[chosen] @ teacher[chosen].T
    best = (np.inf, 0.0)
    for share in _SHARES:
        units = directions(unseen[chosen] - share * mean).astype(np.float32)
        distortion = float(np.abs(units @ units.T - theirs).mean(dtype=np.float64))
        best = min(best, (distortion, float(share)))
    return best[1]


def _mean_norm(vectors: Float[np.ndarray, "n d"]) -> float:
    norms = in_blocks(lambda rows: np.linalg.norm(rows, axis=1), vectors)
    return float(norms.mean())
