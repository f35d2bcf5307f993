"""Detectors that use only the logits of a linear probe."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from isogon.ood.detector import Bank, Detector, DetectorSettings
from isogon.ood.probe import LinearProbe, log_sum_exp
from isogon.ood.statistics import StoredStatistics

GEN_GAMMA = 0.1
GEN_CLASSES = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitDetector(Detector):
    """A score of the logits of a linear probe; only the probe is fitted."""

    probe: LinearProbe

    @classmethod
    def from_bank(cls, bank: Bank, settings: DetectorSettings) -> "LogitDetector":
        """Fit the probe; there are no settings."""
        return cls(probe=bank.probe)

    @classmethod
    def from_stored(
        cls, stored: StoredStatistics, settings: DetectorSettings
    ) -> "LogitDetector":
        """Return the detector from the stored `arrays`."""
        return cls(probe=LinearProbe.from_stored(stored))

    @staticmethod
    @abstractmethod
    def of_logits(logits: Float[np.ndarray, "b c"]) -> Float[np.ndarray, " b"]:
        """Return the score of each row of logits; larger means less familiar."""

    def score(self, embeddings: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " b"]:
        """Return one score per embedding; larger means less familiar."""
        return self.of_logits(self.probe.logits(embeddings))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the probe's weight [c, d], bias [c] and classes [c]."""
        return self.probe.arrays()


class Msp(LogitDetector):
    """The negative of the largest softmax probability, in [-1, -1/c].

    Hendrycks and Gimpel, arXiv:1610.02136, as in OpenOOD v1.5; the score is the
    negative of its `conf`. In float32 probabilities above 1 - 6e-8 are all 1.
    """

    name: ClassVar[str] = "msp"

    @staticmethod
    def of_logits(logits: Float[np.ndarray, "b c"]) -> Float[np.ndarray, " b"]:
        """Return -max_c softmax(l)_c = -exp(max l - logsumexp l)."""
        found: np.ndarray = -np.exp(logits.max(axis=1) - log_sum_exp(logits))
        return found


class MaxLogit(LogitDetector):
    """The negative of the largest logit.

    Hendrycks et al., arXiv:1911.11132, as in OpenOOD v1.5; the score is the negative
    of its `conf`.
    """

    name: ClassVar[str] = "max_logit"

    @staticmethod
    def of_logits(logits: Float[np.ndarray, "b c"]) -> Float[np.ndarray, " b"]:
        """Return -max_c l_c."""
        found: np.ndarray = -logits.max(axis=1)
        return found


class Energy(LogitDetector):
    """The free energy -logsumexp of the logits, at temperature 1.

    Liu et al., arXiv:2010.03759, as in OpenOOD v1.5; the score is the negative of its
    `conf`.
    """

    name: ClassVar[str] = "energy"

    @staticmethod
    def of_logits(logits: Float[np.ndarray, "b c"]) -> Float[np.ndarray, " b"]:
        """Return -log sum_c exp l_c."""
        return -log_sum_exp(logits)


class Gen(LogitDetector):
    """Generalised entropy of the 100 most probable classes, gamma = 0.1.

    Liu et al., "GEN", CVPR 2023, with the settings of OpenOOD v1.5; the score is the
    negative of its `conf`. OpenOOD computes 1 - p in float32, where it is 0 for the
    most confident predictions; we sum the other classes instead, which moves the score
    by up to (6e-8)^0.1 = 0.19 there and nowhere else.
    """

    name: ClassVar[str] = "gen"

    @staticmethod
    def of_logits(logits: Float[np.ndarray, "b c"]) -> Float[np.ndarray, " b"]:
        """Return sum over the 100 largest p of (p (1 - p))^0.1."""
        ordered = -np.sort(-logits, axis=1)
        total = log_sum_exp(ordered)[:, None]
        chosen = ordered[:, :GEN_CLASSES] - total  # log p
        rest = np.log1p(-np.exp(chosen[:, 1:]))  # p <= 1/2: 1 - p is exact enough
        first = log_sum_exp(ordered[:, 1:])[:, None] - total
        others = np.concatenate([first, rest], axis=1)  # log (1 - p)
        found: np.ndarray = np.exp(GEN_GAMMA * (chosen + others)).sum(axis=1)
        return found
