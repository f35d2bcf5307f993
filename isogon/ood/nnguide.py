"""NNGuide: the energy times the guidance of the nearest familiar embeddings."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from isogon.ood.detector import Bank, Detector, DetectorSettings
from isogon.ood.knn import directions, require_neighbours
from isogon.ood.neighbours import in_blocks
from isogon.ood.probe import LinearProbe, log_sum_exp
from isogon.ood.statistics import StoredStatistics

_NEIGHBOURS = 10  # the default of k


@dataclass(frozen=True, kw_only=True, slots=True)
class NnGuide(Detector):
    """-E(f) times the mean of the k largest E_j cos(f, f_j), E = logsumexp(W f + c).

    Park et al., "Nearest Neighbor Guidance for Out-of-Distribution Detection", ICCV
    2023, arXiv:2309.14888, as in OpenOOD v1.5; the score is the negative of its
    `conf`. OpenOOD may draw a share of the training set as bank; ours is the whole set.
    """

    name: ClassVar[str] = "nnguide"
    reads: ClassVar[tuple[str, ...]] = ("k",)

    probe: LinearProbe
    guides: Float[np.ndarray, "n d"]  # direction times energy of each familiar embedding
    k: int

    @classmethod
    def fit(
        cls, embeddings: Float[np.ndarray, "n d"], probe: LinearProbe, *, k: int
    ) -> "NnGuide":
        """Keep directions and energies of at least k familiar embeddings."""
        energies = log_sum_exp(probe.logits(embeddings))
        guides = (directions(embeddings) * energies[:, None]).astype(embeddings.dtype)
        return cls(probe=probe, guides=guides, k=k)

    @classmethod
    def from_bank(cls, bank: Bank, settings: DetectorSettings) -> "NnGuide":
        """Fit, with k = 10 by default."""
        return cls.fit(bank.embeddings, bank.probe, k=settings.k or _NEIGHBOURS)

    @classmethod
    def require_possible(
        cls, settings: DetectorSettings, bank: int, width: int | None, classes: int | None
    ) -> None:
        """Raise `UsageError` if the bank has fewer than k images."""
        require_neighbours(cls.name, settings.k or _NEIGHBOURS, bank)

    def score(self, embeddings: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " b"]:
        """Return the negative of energy times guidance."""
        first = len(self.guides) - self.k

        def score(some: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " b"]:
            guidance = directions(some) @ self.guides.T
            nearest = np.partition(guidance, first, axis=1)[:, first:].mean(axis=1)
            found: np.ndarray = -log_sum_exp(self.probe.logits(some)) * nearest
            return found

        return in_blocks(score, embeddings)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the probe's arrays and the guides [n, d]."""
        return self.probe.arrays() | {"nnguide.guides": self.guides}

    @classmethod
    def from_stored(cls, stored: StoredStatistics, settings: DetectorSettings) -> "NnGuide":
        """Return the detector from the stored `arrays`."""
        k = settings.k or _NEIGHBOURS
        probe = LinearProbe.from_stored(stored)
        guides = stored.take("nnguide.guides", "n d")
        stored.require_bank(k)
        return cls(probe=probe, guides=guides, k=k)
