"""The one place that every answer's outcomes pass, and where models are made known."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from serving.batching import Observer
from serving.observability.metrics import Metered, Metrics
from serving.observability.outcomes import OutcomeCollector, Outcomes
from serving.observability.requests import current_request
from serving.served import ServedModel

if TYPE_CHECKING:
    from serving.observability.spans import Tracing


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
