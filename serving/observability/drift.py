"""Drift: does the traffic of late still look like the calibration images?

Conformal p-values of familiar traffic are uniform if the calibration images stand for
it. But the calibration set is finite: against n = 270 images even familiar traffic is
off by about 1 / sqrt(n), and a test of uniformity that only looks at enough traffic will
alarm, whatever its memory (a conformal test martingale, Vovk et al., arXiv:2102.10439,
or a test of p-values over a long window). So we test what can be true: that the scores
of the last m images and the n calibration scores have one distribution. That is the
two-sample test of Kolmogorov and Smirnov (Smirnov 1939; on learned scores as detector
of dataset shift: Rabanser et al., "Failing Loudly", arXiv:1810.11953). Being a test of
ranks, it is the same on scores as on p-values, and no detector's scale matters.

Where we differ: the p-value is the bound of Dvoretzky, Kiefer and Wolfowitz for two
samples, 2.17 exp(-2 D^2 nm / (n + m)), in place of the exact distribution (Wei and
Dudley, arXiv:1107.5356: 2.17 where n = m, and 2 in every other case of theirs from n = 4
on, by computation up to 200 and conjectured beyond). In the tail it is close.

The window slides, and is looked at ten times in its length. Looking again and again is
paid for: the first alarm comes at look T, P(T <= K) <= K p by the union bound, so
E[T] >= 1 / (2 p), and p is chosen such that familiar traffic runs for `run_length`
images on average before a false alarm. Like every promise of a calibration, it is an
average over the draw of calibration images, and for traffic whose images are exchangeable
with them: one image sent a thousand times is drift, and rightly reported.
`benchmarks/drift.py` shows false alarms and delays by simulation.
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
            window: images to look back upon, m.
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
        """The distance at which traffic counts as drifted; 1 or more is never reached."""
        return math.sqrt(math.log(_CONSTANT / self._level) / (2 * self._weight))

    @property
    def full(self) -> bool:
        """Whether the window has filled once; before, there is no verdict."""
        return self._seen >= self.window

    @property
    def distance(self) -> float:
        """Largest difference of the distribution functions at the last look, 0 to 1."""
        return self._distance

    @property
    def p_value(self) -> float:
        """Chance, at most, that familiar traffic is this far off at one look."""
        return min(1.0, _CONSTANT * math.exp(-2 * self._weight * self._distance**2))

    @property
    def alarm(self) -> bool:
        """Whether the last look found drift."""
        return self._distance > self.threshold

    def add(self, scores: Float[np.ndarray, " b"]) -> None:
        """Take the scores of further images in, and look where a look is due.

        A score that is NaN counts as larger than any.
        """
        bins = np.searchsorted(self._values, scores, side="left")
        bins += np.searchsorted(self._values, scores, side="right")
        while len(bins):
            due = self._stride - self._seen % self._stride
            self._take(bins[:due])
            bins = bins[due:]

    def _take(self, bins: Int[np.ndarray, " b"]) -> None:
        """Replace the oldest scores; at most up to the next look."""
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
