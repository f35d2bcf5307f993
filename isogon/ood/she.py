"""SHE: the inner product with the stored pattern of the predicted class."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from isogon.ood.detector import Bank, Detector, DetectorSettings
from isogon.ood.probe import LinearProbe
from isogon.ood.statistics import StoredStatistics


@dataclass(frozen=True, kw_only=True, slots=True)
class She(Detector):
    """-<f, m_y>, with y the predicted class and m_y its pattern.

    The pattern is the mean of the class's correctly classified familiar embeddings.
    Zhang et al., "Out-of-Distribution Detection based on In-Distribution Data Patterns
    Memorization with Modern Hopfield Energy", ICLR 2023, as in OpenOOD v1.5 (inner
    product); the score is the negative of its `conf`. Where a class has no correctly
    classified embedding, OpenOOD's pattern is NaN; ours is the mean of all of the class.
    """

    name: ClassVar[str] = "she"

    probe: LinearProbe
    patterns: Float[np.ndarray, "c d"]

    @classmethod
    def fit(
        cls,
        embeddings: Float[np.ndarray, "n d"],
        labels: Int[np.ndarray, " n"],
        probe: LinearProbe,
    ) -> "She":
        """Average each class's correctly classified embeddings, in float64."""
        data = embeddings.astype(np.float64)
        predicted = probe.classes[probe.predictions(data)]
        patterns = []
        for label in probe.classes:
            members = labels == label
            correct = members & (predicted == label)
            patterns.append(data[correct if correct.any() else members].mean(axis=0))
        return cls(probe=probe, patterns=np.stack(patterns))

    @classmethod
    def from_bank(cls, bank: Bank, settings: DetectorSettings) -> "She":
        """Fit; there are no settings."""
        return cls.fit(bank.embeddings, bank.classes, bank.probe)

    def score(self, embeddings: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " b"]:
        """Return the negative inner product with the predicted class's pattern."""
        patterns = self.patterns[self.probe.predictions(embeddings)]
        found: np.ndarray = -(embeddings * patterns).sum(axis=1)
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the probe's arrays and the patterns [c, d]."""
        return self.probe.arrays() | {"she.patterns": self.patterns}

    @classmethod
    def from_stored(cls, stored: StoredStatistics, settings: DetectorSettings) -> "She":
        """Return the detector from the stored `arrays`."""
        return cls(
            probe=LinearProbe.from_stored(stored),
            patterns=stored.take("she.patterns", "c d"),
        )
