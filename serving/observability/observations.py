"""What a model said of the images it saw: the one place that every outcome passes."""

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
from serving.served import ServedModel

if TYPE_CHECKING:
    from serving.observability.spans import Tracing


_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_BEYOND = (0.25, 0.5, 1.0, 2.0)  # spreads above the largest calibration score
_TOGETHER = 64  # requests


class Outcomes:
    """The scores one model gave: a histogram of all, a drift test of the last.

    Scores are taken in as they come and counted together, at the latest when they are
    read: of one image alone the counting was an eighth of what its request costs the
    event loop.
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
        """How many scores each bucket has, the one above the last edge included."""
        self._count()
        return self._counts

    @property
    def total(self) -> float:
        """The sum of the scores that are finite."""
        self._count()
        return self._total

    @property
    def drift(self) -> DriftTest:
        """The test, with every score taken in."""
        self._count()
        return self._drift

    def add(self, scores: Float[np.ndarray, " b"]) -> None:
        """Take scores in; one that is not finite is in the last bucket and no sum."""
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
    """Return where the buckets of a model's scores end: each detector has its scale.

    They are the quantiles of the calibration scores, and beyond the largest steps of
    their spread, of three digits each.
    """
    inner = np.quantile(calibration, _QUANTILES)
    spread = inner[-1] - inner[0]
    edges = np.concatenate([inner, inner[-1] + spread * np.array(_BEYOND)])
    return np.unique([float(f"{edge:.3g}") for edge in edges])


class OutcomeCollector(Collector):
    """Tells Prometheus of every model's outcomes, each with buckets of its own."""

    def __init__(self) -> None:
        self.models: dict[str, Outcomes] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield the families; of a window not yet full there is no distance."""
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
            "Images the drift test looks back upon.",
            {name: test.window for name, test in tests.items()},
        )
        yield _gauge(
            "isogon_drift_threshold",
            "The distance from which on traffic counts as drifted.",
            {name: test.threshold for name, test in tests.items()},
        )
        yield _gauge(
            "isogon_drift_alarm",
            "1 while the scores of the window are not those of the calibration images.",
            {name: test.alarm for name, test in tests.items()},
        )
        yield _gauge(
            "isogon_drift_distance",
            "Kolmogorov-Smirnov distance of the window's scores from the calibration's.",
            {name: test.distance for name, test in full.items()},
        )
        yield _gauge(
            "isogon_drift_p_value",
            "Chance, at most, of such a distance at one look at familiar traffic.",
            {name: test.p_value for name, test in full.items()},
        )


def _gauge(name: str, help: str, values: dict[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help, labels=["model"])
    for model, value in values.items():
        family.add_metric([model], float(value))
    return family


_Model = tuple[str, str]  # name and fingerprint


class Observations:
    """Counts what models answer; on one event loop, so without a lock."""

    def __init__(self, metrics: Metrics) -> None:
        self.tracing: Tracing | None = None  # set before models are made known
        self._metrics = metrics
        self._outcomes = OutcomeCollector()
        self._infos: dict[str, tuple[str, ...]] = {}
        metrics.registry.register(self._outcomes)
        self._passed: dict[_Model, list[Float[np.ndarray, " b"]]] | None = None

    def observer(self, model: ServedModel) -> Observer:
        """Make a model known that serves from now on; return who hears its pipeline.

        A model that replaces one of its name starts a drift window of its own.
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
        """Judge a model's scores from now on: histogram and drift, from their start."""
        self._outcomes.models[model.name] = Outcomes(model)

    def unfollow(self, name: str) -> None:
        """Tell no more of a model's scores."""
        del self._outcomes.models[name]

    def pass_on(self) -> None:
        """Collect scores for `taken` instead of judging them: another process does."""
        self._metrics.registry.unregister(self._outcomes)
        self._passed = {}

    def taken(self) -> dict[_Model, Float[np.ndarray, " b"]]:
        """Return the scores since the call before, of a process that passes them on."""
        passed, self._passed = self._passed or {}, {}
        return {model: np.concatenate(scores) for model, scores in passed.items()}

    def judge(self, name: str, fingerprint: str, scores: Float[np.ndarray, " b"]) -> None:
        """Take scores in; those of a model that was replaced meanwhile do not count."""
        outcomes = self._outcomes.models.get(name)
        if outcomes is not None and outcomes.fingerprint == fingerprint:
            outcomes.add(scores)

    def forget(self, name: str) -> None:
        """Tell no more of a model that another name has taken the place of."""
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
            model: that answered. One that was replaced meanwhile, or was never made
                known, has its images counted, and no say about drift.
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
