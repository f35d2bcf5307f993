"""Outcomes: every answer's scores and decisions are counted here, and tested for drift."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.batching import Observer
from serving.observability.drift import DriftTest
from serving.observability.metrics import Metered, Metrics
from serving.observability.requests import current_request
from serving.served_model import ServedModel

if TYPE_CHECKING:
    from serving.observability.spans import Tracing

_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
# Added to the largest calibration score, in units of the range.
_BEYOND = (0.25, 0.5, 1.0, 2.0)
_TOGETHER = 64  # requests whose scores are counted at once
_Model = tuple[str, str]  # name and fingerprint


class Observations:
    """Counts the outcomes of all models; used on one event loop, so without a lock."""

    def __init__(self, metrics: Metrics) -> None:
        self.tracing: Tracing | None = None  # set before the first `observer`
        self._metrics = metrics
        self._outcomes = OutcomeCollector()
        self._infos: dict[str, tuple[str, ...]] = {}
        metrics.registry.register(self._outcomes)
        self._passed: dict[_Model, list[Float[np.ndarray, " b"]]] | None = None

    def observer(self, model: ServedModel) -> Observer:
        """Register a model that answers from now on; return its pipeline's observer.

        A model that replaces another one of the same name starts a new drift window.
        """
        name = model.name
        info = (name, model.artifact.fingerprint, model.artifact.name, model.runner.name)
        if name in self._infos:
            self._metrics.info.remove(*self._infos[name])
        self._infos[name] = info
        self._metrics.info.labels(*info).set(1)
        self.follow(model)
        self._metrics.limit.labels(name).set(model.settings.queue)
        self._metrics.images.labels(name)
        self._metrics.flagged.labels(name)
        return Metered(self._metrics, name, self.tracing)

    def follow(self, model: ServedModel) -> None:
        """Start a histogram and a drift window for a model's scores."""
        self._outcomes.models[model.name] = Outcomes(model)

    def unfollow(self, name: str) -> None:
        """Remove the histogram and drift window of a model."""
        del self._outcomes.models[name]

    def pass_on(self) -> None:
        """Collect scores for `taken`; another process counts them."""
        self._metrics.registry.unregister(self._outcomes)
        self._passed = {}

    def taken(self) -> dict[_Model, Float[np.ndarray, " b"]]:
        """Return the scores since the last call, after `pass_on`."""
        passed, self._passed = self._passed or {}, {}
        return {model: np.concatenate(scores) for model, scores in passed.items()}

    def judge(self, name: str, fingerprint: str, scores: Float[np.ndarray, " b"]) -> None:
        """Count scores, unless the model was replaced meanwhile."""
        outcomes = self._outcomes.models.get(name)
        if outcomes is not None and outcomes.fingerprint == fingerprint:
            outcomes.add(scores)

    def forget(self, name: str) -> None:
        """Remove the metrics of a model whose name is no longer served."""
        self._metrics.info.remove(*self._infos.pop(name))
        self._metrics.limit.remove(name)
        self._metrics.depth.remove(name)
        self.unfollow(name)

    def seen(
        self,
        model: ServedModel,
        scores: Float[np.ndarray, " b"],
        flagged: Bool[np.ndarray, " b"],
    ) -> None:
        """Count the outcomes of a request's images.

        Args:
            model: the one that answered. If it was replaced meanwhile, or was never
                registered, its images are counted but not tested for drift.
            scores: OOD scores, larger is less familiar.
            flagged: which were answered as out of distribution.
        """
        self._metrics.images.labels(model.name).inc(len(scores))
        self._metrics.flagged.labels(model.name).inc(int(np.count_nonzero(flagged)))
        fingerprint = model.artifact.fingerprint
        if self._passed is None:
            self.judge(model.name, fingerprint, scores)
        else:
            self._passed.setdefault((model.name, fingerprint), []).append(scores)
        if (request := current_request()) is not None:
            request.images += len(scores)
            request.model = model.name


class OutcomeCollector(Collector):
    """Collects every model's outcomes for Prometheus; each model has its own buckets."""

    def __init__(self) -> None:
        self.models: dict[str, Outcomes] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; a window that is not full yet has no distance."""
        scores = HistogramMetricFamily(
            "isogon_ood_score",
            "OOD scores, larger is less familiar, on the detector's own scale.",
            labels=["model"],
        )
        for name, outcomes in self.models.items():
            ends = [*(str(edge) for edge in outcomes.edges), "+Inf"]
            counts = [float(count) for count in np.cumsum(outcomes.counts)]
            buckets = list(zip(ends, counts, strict=True))
            scores.add_metric([name], buckets, outcomes.total)
        yield scores
        tests = {name: outcomes.drift for name, outcomes in self.models.items()}
        full = {name: test for name, test in tests.items() if test.full}
        yield _gauge(
            "isogon_drift_window_images",
            "Number of last images that the drift test compares.",
            {name: test.window for name, test in tests.items()},
        )
        yield _gauge(
            "isogon_drift_threshold",
            "The distance above which traffic counts as drifted.",
            {name: test.threshold for name, test in tests.items()},
        )
        yield _gauge(
            "isogon_drift_alarm",
            "1 while the window's scores differ from those of the calibration images.",
            {name: test.alarm for name, test in tests.items()},
        )
        yield _gauge(
            "isogon_drift_distance",
            "Kolmogorov-Smirnov distance of the window's scores from the calibration's.",
            {name: test.distance for name, test in full.items()},
        )
        yield _gauge(
            "isogon_drift_p_value",
            "Upper bound of the chance of this distance for familiar traffic, at one look.",
            {name: test.p_value for name, test in full.items()},
        )


class Outcomes:
    """One model's scores: a histogram of all, and a drift test of the last ones.

    Scores are collected and counted together, at the latest when they are read. Counting
    each at once took an eighth of the event loop's time for a request of one image.
    """

    def __init__(self, model: ServedModel) -> None:
        calibration = np.asarray(model.calibration.scores)
        self.fingerprint = model.artifact.fingerprint
        self.edges = bucket_edges(calibration)
        self._counts = np.zeros(len(self.edges) + 1, np.int64)
        self._total = 0.0
        self._uncounted: list[Float[np.ndarray, " b"]] = []
        self._drift = DriftTest(
            calibration,
            window=model.settings.drift_window,
            run_length=model.settings.drift_run_length,
        )

    @property
    def counts(self) -> Int[np.ndarray, " e"]:
        """How many scores are in each bucket, including the one above the last edge."""
        self._count()
        return self._counts

    @property
    def total(self) -> float:
        """The sum of the finite scores."""
        self._count()
        return self._total

    @property
    def drift(self) -> DriftTest:
        """The drift test, with every score counted."""
        self._count()
        return self._drift

    def add(self, scores: Float[np.ndarray, " b"]) -> None:
        """Add scores; those not finite count in the last bucket, but not in the sum."""
        self._uncounted.append(scores)
        if len(self._uncounted) >= _TOGETHER:
            self._count()

    def _count(self) -> None:
        if not self._uncounted:
            return
        scores = np.concatenate(self._uncounted)
        self._uncounted.clear()
        np.add.at(self._counts, np.searchsorted(self.edges, scores, side="left"), 1)
        self._total += float(scores.sum(where=np.isfinite(scores), dtype=np.float64))
        self._drift.add(scores)


def bucket_edges(calibration: Float[np.ndarray, " n"]) -> Float[np.ndarray, " e"]:
    """Return the upper edges of the buckets of a model's scores, on its detector's scale.

    They are quantiles of the calibration scores, and above the largest one steps
    proportional to their range, rounded to three digits.
    """
    inner = np.quantile(calibration, _QUANTILES)
    spread = inner[-1] - inner[0]
    edges = np.concatenate([inner, inner[-1] + spread * np.array(_BEYOND)])
    return np.unique([float(f"{edge:.3g}") for edge in edges])


def _gauge(name: str, help: str, values: dict[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help, labels=["model"])
    for model, value in values.items():
        family.add_metric([model], float(value))
    return family
