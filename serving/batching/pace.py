"""How long things take here: learned from what has run, forgetting what is long past."""

import math
from collections.abc import Mapping
from typing import Self

import numpy as np

_RATE = 0.05  # of each observation: about the last twenty count
_OUTLIER = math.log(2)  # one slow run, such as a preempted one, moves no more than this
_FLOOR = 0.01  # of one image's run: what is learned by factors may not be nothing


class Pace:
    """The seconds of a decoding, and of a run: `fixed + each * images`.

    Both parts are positive and are learned by their logarithms: a run that took r times
    as long as predicted scales each part by r to the power of its share in the
    prediction, times a rate. That is a step of gradient descent on the squared
    logarithm of r; it needs no units, and where all batches are of one size, and say
    nothing of the parts, their ratio drifts least.
    """

    def __init__(self, *, fixed: float, each: float) -> None:
        least = _FLOOR * max(fixed + each, 1e-6)
        self.fixed = max(fixed, least)
        self.each = max(each, least)
        self.decoding = 0.0

    @classmethod
    def fitted(cls, seconds: Mapping[int, float]) -> Self:
        """Return the pace that best predicts the seconds of runs by batch size.

        Least squares of the relative errors; with one size, all is `each`.
        """
        sizes = np.array(list(seconds), dtype=float)
        took = np.array(list(seconds.values()))
        if len(sizes) == 1:
            return cls(fixed=0.0, each=float(took[0] / sizes[0]))
        rows = np.stack([1 / took, sizes / took], axis=1)
        fixed, each = np.linalg.lstsq(rows, np.ones(len(sizes)), rcond=None)[0].tolist()
        return cls(fixed=fixed, each=each)

    def run(self, images: int) -> float:
        """Return the seconds that a run of so many images should take."""
        return self.fixed + self.each * images

    def learn_run(self, images: int, seconds: float) -> None:
        """Take in that a run took so long."""
        predicted = self.run(images)
        error = math.log(max(seconds, 1e-9) / predicted)
        step = _RATE * max(-_OUTLIER, min(error, _OUTLIER))
        share = self.fixed / predicted
        self.fixed *= math.exp(step * share)
        self.each *= math.exp(step * (1 - share))

    def learn_decoding(self, seconds: float) -> None:
        """Take in that an image took so long to decode."""
        rate = _RATE if self.decoding else 1.0
        self.decoding += rate * (seconds - self.decoding)
