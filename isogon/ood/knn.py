"""Distance to the k-th nearest familiar embedding."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from isogon.errors import UsageError
from isogon.ood.detector import Bank, Detector, DetectorSettings
from isogon.ood.neighbours import in_blocks
from isogon.ood.statistics import StoredStatistics


@dataclass(frozen=True, kw_only=True, slots=True)
class Knn(Detector):
    """Squared distance of directions, `2 - 2 cos`, to the k-th nearest in the bank.

    k = 1 is the maximum cosine of CosPress's evaluation (arXiv:2411.15239), k = 50
    the setting of OpenOOD v1.5 (Sun et al., arXiv:2204.06507). The score is the
    negative of OpenOOD's `conf`.
    """

    name: ClassVar[str] = "knn"
    needs_labels: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("k",)

    bank: Float[np.ndarray, "n d"]  # unit norm
    k: int

    @classmethod
    def fit(cls, embeddings: Float[np.ndarray, "n d"], *, k: int) -> "Knn":
        """Keep the directions of at least k familiar embeddings as the bank."""
        return cls(bank=directions(embeddings), k=k)

    @classmethod
    def from_bank(cls, bank: Bank, settings: DetectorSettings) -> "Knn":
        """Fit, with k = 1 by default."""
        return cls.fit(bank.embeddings, k=settings.k or 1)

    @classmethod
    def require_possible(
        cls, settings: DetectorSettings, bank: int, width: int | None, classes: int | None
    ) -> None:
        """Raise `UsageError` if the bank has fewer than k images."""
        require_neighbours(cls.name, settings.k or 1, bank)

    def score(self, embeddings: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " b"]:
        """Return 2 - 2 cos to the k-th nearest of the bank, in [0, 4]."""
        kth = len(self.bank) - self.k

        def score(some: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " b"]:
            cosines = directions(some) @ self.bank.T
            scores: np.ndarray = 2 - 2 * np.partition(cosines, kth, axis=1)[:, kth]
            return scores

        return in_blocks(score, embeddings)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the bank, [n, d]."""
        return {"bank": self.bank}

    @classmethod
    def from_stored(cls, stored: StoredStatistics, settings: DetectorSettings) -> "Knn":
        """Return the detector from the stored `arrays`."""
        k = settings.k or 1
        bank = stored.take("bank", "n d")
        stored.require_bank(k)
        return cls(bank=bank, k=k)


def require_neighbours(name: str, k: int, bank: int) -> None:
    """Raise `UsageError` if a bank has fewer images than a detector's k."""
    if bank < k:
        raise UsageError(
            f"The {name} detector with k = {k} needs a bank of at least {k} images, got "
            f"{bank}; lower k or add images."
        )


def directions(embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Return the embeddings divided by their norms."""
    found: np.ndarray = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return found
