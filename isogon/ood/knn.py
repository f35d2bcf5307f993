"""Distance to the k-th nearest familiar embedding."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from isogon.ood.blocks import in_blocks
from isogon.ood.detector import Detector
from isogon.ood.stored import Stored


@dataclass(frozen=True, kw_only=True, slots=True)
class Knn(Detector):
    """Squared distance of directions, `2 - 2 cos`, to the k-th nearest in the bank.

    k = 1 is the maximum cosine of CosPress's evaluation (arXiv:2411.15239), k = 50
    the setting of OpenOOD v1.5 (Sun et al., arXiv:2204.06507). The score is the
    negative of OpenOOD's `conf`.
    """

    bank: Float[np.ndarray, "n d"]  # unit norm
    k: int

    @classmethod
    def fit(cls, embeddings: Float[np.ndarray, "n d"], *, k: int) -> "Knn":
        """Keep the directions of at least k familiar embeddings as the bank."""
        return cls(bank=directions(embeddings), k=k)

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
    def from_stored(cls, stored: Stored, *, k: int) -> "Knn":
        """Return the detector that `arrays` stored."""
        bank = stored.take("bank", "n d")
        stored.require_bank(k)
        return cls(bank=bank, k=k)


def directions(embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Return the embeddings divided by their norms."""
    found: np.ndarray = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return found
