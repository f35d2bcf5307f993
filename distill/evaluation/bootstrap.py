"""Percentile bootstrap: how far a figure would move with other test images."""

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt16

from isogon.bundle.evaluation import Bootstrap, Estimate

BOOTSTRAP = Bootstrap(resamples=1000, seed=0)

# Scores of familiar and of unfamiliar images.
Sides = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " u"]]

_TAILS = (2.5, 97.5)  # percentiles


def accuracy_estimate(right: Bool[np.ndarray, " n"]) -> Estimate:
    """Return the share of True, resampled over the n images.

    The sum of a resample of n outcomes is binomial, so it is drawn directly.
    """
    share = float(right.mean())
    generator = np.random.default_rng(BOOTSTRAP.seed)
    drawn = generator.binomial(len(right), share, BOOTSTRAP.resamples) / len(right)
    return _estimate(share, drawn)


class PairedBootstrap:
    """The difference between two models' means over the same test images.

    Every resample takes the same images for both, so that what is hard for both adds
    nothing to the interval. They are the resamples that `AurocBootstrap` takes of the
    familiar images. Measured: 1,000 resamples of 5,000 images take 0.02 s on one core.
    """

    def __init__(self, images: int) -> None:
        """Draw the resamples of so many test images."""
        self._counts = _counts(images, np.random.default_rng(BOOTSTRAP.seed))

    def difference(
        self, ours: Shaped[np.ndarray, " n"], theirs: Shaped[np.ndarray, " n"]
    ) -> Estimate:
        """Return mean(ours) - mean(theirs), of one value for each image."""
        apart = ours.astype(np.float64) - theirs
        drawn = np.array([counts @ apart for counts in self._counts]) / len(apart)
        return _estimate(float(apart.mean()), drawn)


class AurocBootstrap:
    """AUROC with its interval, for many detectors on the same two sets of images.

    Familiar and unfamiliar images are resampled each among themselves. Every detector
    and model sees the same resamples. Measured: 1,000 resamples of 5,000 + 5,000
    scores take 0.04 s on one core, drawing them 0.07 s once.
    """

    def __init__(self, familiar: int, unfamiliar: int) -> None:
        """Draw the resamples.

        Args:
            familiar: how many familiar test images there are.
            unfamiliar: how many unfamiliar ones.
        """
        generator = np.random.default_rng(BOOTSTRAP.seed)
        self._familiar = _counts(familiar, generator)
        self._unfamiliar = _counts(unfamiliar, generator)

    def estimate(
        self, familiar: Float[np.ndarray, " n"], unfamiliar: Float[np.ndarray, " u"]
    ) -> Estimate:
        """Return the chance that an unfamiliar image scores higher; ties count half."""
        return _estimate(*self._auroc(familiar, unfamiliar))

    def difference(self, ours: Sides, theirs: Sides) -> Estimate:
        """Return how much higher our AUROC is than theirs, on the same resamples.

        Args:
            ours: one model's scores of the familiar and of the unfamiliar images.
            theirs: the other's, of the same images.
        """
        (value, drawn), (reference, drawn_too) = self._auroc(*ours), self._auroc(*theirs)
        return _estimate(value - reference, drawn - drawn_too)

    def _auroc(
        self, familiar: Float[np.ndarray, " n"], unfamiliar: Float[np.ndarray, " u"]
    ) -> tuple[float, Float[np.ndarray, " resamples"]]:
        """Return the AUROC, and that of each resample."""
        order = np.argsort(familiar, kind="stable")
        ranked = familiar[order]
        below = np.searchsorted(ranked, unfamiliar, side="left")
        up_to = np.searchsorted(ranked, unfamiliar, side="right")
        pairs = 2.0 * len(familiar) * len(unfamiliar)
        cumulated = np.zeros(len(familiar) + 1)
        drawn = np.empty(BOOTSTRAP.resamples)
        resamples = zip(self._familiar, self._unfamiliar, strict=True)
        for number, (counts, weights) in enumerate(resamples):
            np.cumsum(counts[order], out=cumulated[1:])
            drawn[number] = weights @ (cumulated[below] + cumulated[up_to]) / pairs
        return float((below.sum() + up_to.sum()) / pairs), drawn


def _estimate(value: float, drawn: Float[np.ndarray, " resamples"]) -> Estimate:
    low, high = np.percentile(drawn, _TAILS)
    return Estimate(value=value, low=float(low), high=float(high))


def _counts(
    images: int, generator: np.random.Generator
) -> UInt16[np.ndarray, "resamples images"]:
    """Return how often each image occurs in each resample."""
    counts = np.empty((BOOTSTRAP.resamples, images), np.uint16)
    for row in counts:
        row[:] = np.bincount(generator.integers(images, size=images), minlength=images)
    return counts
