"""Mahalanobis distance to the nearest class, and the same relative to all data."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from isogon.errors import UsageError
from isogon.ood.detector import Bank, Detector, DetectorSettings
from isogon.ood.statistics import StoredStatistics


@dataclass(frozen=True, kw_only=True, slots=True)
class Gaussians:
    """Class means under one shared covariance, in coordinates where it is the identity.

    With f' = (f - center) @ whitening, the squared Mahalanobis distance to class c
    is |f' - means_c|^2. Centring first keeps the difference of squares accurate in
    float32.
    """

    center: Float[np.ndarray, " d"]
    whitening: Float[np.ndarray, "d r"]
    means: Float[np.ndarray, "c r"]

    @classmethod
    def fit(
        cls, embeddings: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]
    ) -> "Gaussians":
        """Fit the empirical covariance of class-centred embeddings, in float64.

        Directions whose variance is below d * eps(float32) of the largest hold
        only rounding errors of the embeddings and are left out.
        """
        data = embeddings.astype(np.float64)
        center = data.mean(axis=0)
        classes, members = np.unique(labels, return_inverse=True)
        means = np.stack([data[members == c].mean(axis=0) for c in range(len(classes))])
        residuals = data - means[members]
        variances, directions = np.linalg.eigh(residuals.T @ residuals / len(data))
        floor = data.shape[1] * np.finfo(np.float32).eps * variances.max()
        kept = variances > floor
        if not kept.any():
            raise UsageError(
                "The mahalanobis detector needs embeddings that vary within a class, "
                f"got {len(data)} that do not vary; add images or use the knn detector."
            )
        whitening = directions[:, kept] / np.sqrt(variances[kept])
        return cls(center=center, whitening=whitening, means=(means - center) @ whitening)

    def squared_distance(
        self, embeddings: Float[np.ndarray, "b d"]
    ) -> Float[np.ndarray, " b"]:
        """Return the squared distance to the nearest class."""
        whitened = (embeddings.astype(np.float64) - self.center) @ self.whitening
        squares = (
            (whitened**2).sum(axis=1, keepdims=True)
            - 2 * whitened @ self.means.T
            + (self.means**2).sum(axis=1)
        )
        nearest: np.ndarray = squares.min(axis=1)
        return nearest

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return center [d], whitening [d, r] and means [c, r], named by the prefix."""
        return {
            f"{prefix}.center": self.center,
            f"{prefix}.whitening": self.whitening,
            f"{prefix}.means": self.means,
        }

    @classmethod
    def from_stored(cls, stored: StoredStatistics, prefix: str) -> "Gaussians":
        """Return the Gaussians that `arrays` stored under the prefix."""
        return cls(
            center=stored.take(f"{prefix}.center", "d"),
            whitening=stored.take(f"{prefix}.whitening", f"d {prefix}.r"),
            means=stored.take(f"{prefix}.means", f"{prefix}.c {prefix}.r"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Mahalanobis(Detector):
    """min_c (f - mu_c)^T S^-1 (f - mu_c), with one covariance S for all classes.

    Lee et al., arXiv:1807.03888, as in OpenOOD v1.5 (no factor 1/2); the score is
    the negative of its `conf`. Without labels there is one Gaussian.
    """

    name: ClassVar[str] = "mahalanobis"
    needs_labels: ClassVar[bool] = False

    classes: Gaussians

    @classmethod
    def from_bank(cls, bank: Bank, settings: DetectorSettings) -> "Mahalanobis":
        """Fit; there are no settings."""
        return cls.fit(bank.embeddings, bank.labels)

    @classmethod
    def require_possible(
        cls, settings: DetectorSettings, bank: int, width: int | None, classes: int | None
    ) -> None:
        """Raise `UsageError` if each image is a class of its own."""
        _require_variance(cls.name, bank, classes)

    @classmethod
    def fit(
        cls, embeddings: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"] | None
    ) -> "Mahalanobis":
        """Fit one Gaussian per class, or a single one without labels."""
        if labels is None:
            labels = np.zeros(len(embeddings), dtype=np.int64)
        return cls(classes=Gaussians.fit(embeddings, labels))

    def score(self, embeddings: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " b"]:
        """Return the squared Mahalanobis distance to the nearest class."""
        return self.classes.squared_distance(embeddings)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return center [d], whitening [d, r] and means [c, r]."""
        return self.classes.arrays("classes")

    @classmethod
    def from_stored(
        cls, stored: StoredStatistics, settings: DetectorSettings
    ) -> "Mahalanobis":
        """Return the detector from the stored `arrays`."""
        return cls(classes=Gaussians.from_stored(stored, "classes"))


@dataclass(frozen=True, kw_only=True, slots=True)
class RelativeMahalanobis(Detector):
    """The Mahalanobis score minus the same with one Gaussian over all embeddings.

    Ren et al., arXiv:2106.09022, as in OpenOOD v1.5; the score is the negative of
    its `conf`.
    """

    name: ClassVar[str] = "relative_mahalanobis"

    classes: Gaussians
    everything: Gaussians

    @classmethod
    def from_bank(cls, bank: Bank, settings: DetectorSettings) -> "RelativeMahalanobis":
        """Fit; there are no settings."""
        return cls.fit(bank.embeddings, bank.classes)

    @classmethod
    def require_possible(
        cls, settings: DetectorSettings, bank: int, width: int | None, classes: int | None
    ) -> None:
        """Raise `UsageError` if each image is a class of its own."""
        _require_variance(cls.name, bank, classes)

    @classmethod
    def fit(
        cls, embeddings: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]
    ) -> "RelativeMahalanobis":
        """Fit the class Gaussians and the one over everything."""
        return cls(
            classes=Gaussians.fit(embeddings, labels),
            everything=Gaussians.fit(embeddings, np.zeros_like(labels)),
        )

    def score(self, embeddings: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " b"]:
        """Return the nearest class's squared distance minus that to all data."""
        difference: np.ndarray = self.classes.squared_distance(
            embeddings
        ) - self.everything.squared_distance(embeddings)
        return difference

    def arrays(self) -> dict[str, np.ndarray]:
        """Return both sets of center [d], whitening [d, r] and means [c, r]."""
        return self.classes.arrays("classes") | self.everything.arrays("everything")

    @classmethod
    def from_stored(
        cls, stored: StoredStatistics, settings: DetectorSettings
    ) -> "RelativeMahalanobis":
        """Return the detector from the stored `arrays`."""
        return cls(
            classes=Gaussians.from_stored(stored, "classes"),
            everything=Gaussians.from_stored(stored, "everything"),
        )


def _require_variance(name: str, bank: int, classes: int | None) -> None:
    if classes == bank:
        raise UsageError(
            f"The {name} detector needs images that vary within a class, got a bank of "
            f"{bank} images, each a class of its own; give images of one kind one label, "
            f"leave the labels out, or use the knn detector."
        )
