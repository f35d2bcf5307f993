"""From an OOD score to a decision: conformal p-values against familiar images.

Familiar images are in-distribution. A p-value is the probability that a familiar image
has a score at least as large. Flagging p <= alpha raises a false alarm on at most a share
alpha of familiar traffic, for any detector (Vovk et al., "Algorithmic Learning in a
Random World", 2005; one-sided, without randomised ties).
"""

import math
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field

from isogon.errors import UsageError


class Calibration(BaseModel):
    """The scores of held-out familiar images under one artifact, ascending."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(gt=0, lt=1)
    scores: tuple[float, ...] = Field(min_length=1)

    @classmethod
    def from_scores(cls, scores: Float[np.ndarray, " n"], alpha: float) -> "Calibration":
        """Calibrate on familiar images that the detector was not fitted on.

        Raises:
            UsageError: a score is not finite, or there are too few for `alpha`.
        """
        if not np.isfinite(scores).all():
            raise UsageError(
                f"Calibration expects finite OOD scores, got "
                f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} that are "
                f"not finite; fit the detector again with `isogon calibrate`."
            )
        needed = scores_needed(alpha)
        if len(scores) < needed:
            raise UsageError(
                f"A false-alarm rate of {alpha:g} needs at least {needed} held-out "
                f"familiar images, got {len(scores)}; add images or raise alpha to "
                f"{_alpha_for(len(scores)):g}."
            )
        return cls(alpha=alpha, scores=tuple(float(score) for score in np.sort(scores)))

    @cached_property
    def _ascending(self) -> Float[np.ndarray, " n"]:
        return np.asarray(self.scores)

    @property
    def threshold(self) -> float:
        """`is_ood` is true exactly for scores above this one.

        p <= alpha allows at most m calibration scores at or above the image's score, so it
        holds above the (m + 1)-th largest of them.
        """
        n = len(self.scores)
        p_values = (1 + np.arange(n)) / (n + 1)  # as `p_values` rounds them
        room = int(np.count_nonzero(p_values <= self.alpha)) - 1
        return self.scores[n - 1 - room]

    def p_values(self, scores: Float[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
        """Return (1 + #{calibration scores >= score}) / (n + 1) for each score.

        A NaN score gets the smallest p-value, so it is flagged.
        """
        below = self._ascending.searchsorted(scores, side="left")
        return (1 + len(self.scores) - below) / (len(self.scores) + 1)

    def is_ood(self, scores: Float[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
        """Return the decision p <= alpha for each score."""
        return self.p_values(scores) <= self.alpha


def scores_needed(alpha: float) -> int:
    """Return the smallest number of calibration images that allows p <= alpha."""
    return math.ceil(1 / alpha - 1e-9) - 1


def _alpha_for(images: int) -> float:
    """Return the smallest alpha, in thousandths, for this number of images."""
    return math.ceil(1000 / (images + 1)) / 1000
