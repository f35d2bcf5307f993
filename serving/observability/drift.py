"""Drift: does recent traffic still look like the calibration images?

Conformal p-values of familiar (in-distribution) traffic are uniform if the calibration
images represent it. But the calibration set is finite: with n = 270 images, even familiar
traffic deviates from uniform by about 1 / sqrt(n). A test of uniformity (a conformal test
martingale, Vovk et al., arXiv:2102.10439, or a test of p-values over a long window) always
alarms in the end, if it sees enough traffic. So we test whether the scores of the last m
images and the n calibration scores have the same distribution, with the two-sample test of
Kolmogorov and Smirnov (Smirnov 1939; for detecting dataset shift by learned scores:
Rabanser et al., "Failing Loudly", arXiv:1810.11953). It is a test of ranks, so it gives the
same result for scores and p-values, whatever the scale of the detector.

Where we differ: the p-value is the bound of Dvoretzky, Kiefer and Wolfowitz for two
samples, 2.17 exp(-2 D^2 nm / (n + m)), in place of the exact distribution. The constant is
from Wei and Dudley, arXiv:1107.5356: 2.17 for n = m, and 2 in their other cases from n = 4
on (computed up to 200, conjectured beyond). The bound is close in the tail.

The window slides, and the test looks at it ten times per window length. Repeated looks are
corrected for: if the first alarm comes at look T, the union bound gives P(T <= K) <= K p,
so E[T] >= 1 / (2 p). p is chosen such that familiar traffic runs for `run_length` images on
average before a false alarm. This is an average over draws of the calibration images, and
holds for traffic that is exchangeable with them. One image sent a thousand times is drift,
and is reported. `benchmarks/drift.py` simulates false alarms and delays.
"""

import math

import numpy as np
from jaxtyping import Float, Int

LOOKS_PER_WINDOW = 10
_CONSTANT = 2.17  # of the bound


class DriftTest:
    """Compares the last `window` scores with the calibration scores."""

    def __init__(
        self, calibration: Float[np.ndarray, " n"], *, window: int, run_length: float
    ) -> None:
        """Start with an empty window.

        Args:
            calibration: the scores of familiar images, finite, in any order.
            window: number of last images to compare, m.
            run_length: familiar images, on average at least, until a false alarm.
        """
        self.window = window
        self._values, repeats = np.unique(calibration, return_counts=True)
        # Bins: below the first value, at it, between it and the next, … above the last.
        upto = np.cumsum(repeats) / len(calibration)
        self._expected = np.append(np.insert(np.repeat(upto, 2), 0, 0.0)[:-1], 1.0)
        self._counts = np.zeros(len(self._expected), np.int64)
        self._recent = np.zeros(window, np.intp)  # bins of the last scores, a ring
        self._stride = max(1, window // LOOKS_PER_WINDOW)
        self._weight = len(calibration) * window / (len(calibration) + window)
        self._level = self._stride / (2 * run_length)
        self._seen = 0
        self._distance = 0.0

    @property
    def threshold(self) -> float:
        """The distance above which traffic is drifted; 1 or more is never reached."""
        return math.sqrt(math.log(_CONSTANT / self._level) / (2 * self._weight))

    @property
    def full(self) -> bool:
        """Whether the window has filled once; before that, there is no result."""
        return self._seen >= self.window

    @property
    def distance(self) -> float:
        """Largest difference of the two distribution functions at the last look, 0 to 1."""
        return self._distance

    @property
    def p_value(self) -> float:
        """Upper bound of the chance of this distance for familiar traffic, at one look."""
        return min(1.0, _CONSTANT * math.exp(-2 * self._weight * self._distance**2))

    @property
    def alarm(self) -> bool:
        """Whether the last look found drift."""
        return self._distance > self.threshold

    def add(self, scores: Float[np.ndarray, " b"]) -> None:
        """Add the scores of further images, and look at the window when it is due.

        NaN counts as larger than any score.
        """
        bins = np.searchsorted(self._values, scores, side="left")
        bins += np.searchsorted(self._values, scores, side="right")
        while len(bins):
            due = self._stride - self._seen % self._stride
            self._take(bins[:due])
            bins = bins[due:]

    def _take(self, bins: Int[np.ndarray, " b"]) -> None:
        """Replace the oldest scores, at most up to the next look."""
        places = (self._seen + np.arange(len(bins))) % self.window
        if self._seen >= self.window:
            np.subtract.at(self._counts, self._recent[places], 1)
        elif self._seen + len(bins) > self.window:
            leaving = places[self.window - self._seen :]
            np.subtract.at(self._counts, self._recent[leaving], 1)
        self._recent[places] = bins
        np.add.at(self._counts, bins, 1)
        self._seen += len(bins)
        if self.full and self._seen % self._stride == 0:
            observed = np.cumsum(self._counts) / self.window
            self._distance = float(np.abs(observed - self._expected).max())
