"""The metrics at `/metrics`, for Prometheus; and their sum over several processes.

Each process keeps its values in memory, in its own registry. With several processes the
supervisor (`serving.launch`) sums them by `summed`. BentoML's files for several workers
(`PROMETHEUS_MULTIPROC_DIR`) are not used. BentoML's own request metrics are off: their
label is the raw path, so any client can create new series. Ours have the route's template.
"""

import copy
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from serving.batching import Observer, Trail

if TYPE_CHECKING:
    from serving.observability.spans import Tracing

_ADDED = ("counter", "histogram")  # types kept after a process has ended
_LEAST = ("process_max_fds", "process_start_time_seconds")  # not summed: the least counts
_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# `…_created` would be a second series for each metric, which Prometheus does not use.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The service's metrics; every name begins with `isogon_` or `process_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter(
            "isogon_http_requests",
            "Requests answered; 499: the client left before.",
            ("method", "route", "status"),
        )
        self.request_seconds = self._seconds(
            "isogon_http_request_duration_seconds",
            "From a request's headers to the end of its answer.",
            ("method", "route"),
        )
        self.keys = self._counter(
            "isogon_key_requests",
            "Requests with a valid key, by its name; refused: beyond its rate.",
            ("key", "outcome"),
        )
        self.images = self._counter("isogon_images", "Images answered.")
        self.flagged = self._counter(
            "isogon_images_flagged", "Images answered as out of distribution."
        )
        self.queued = self._seconds(
            "isogon_queue_wait_seconds", "From an image's admission to its decoding."
        )
        self.decoded = self._seconds(
            "isogon_decode_duration_seconds", "Decoding and preprocessing of an image."
        )
        self.batched = self._seconds(
            "isogon_batch_wait_seconds", "From a decoded image to the run it is part of."
        )
        self.ran = self._seconds(
            "isogon_run_duration_seconds", "The runtime's time for a batch."
        )
        self.batch_images = Histogram(
            "isogon_batch_images",
            "Images run together.",
            ("model",),
            registry=self.registry,
            buckets=_IMAGES,
        )
        self.depth = self._gauge("isogon_queue_images", "Images admitted that do not run.")
        self.limit = self._gauge(
            "isogon_queue_limit_images", "Images that may be admitted and not run."
        )
        self.refused = self._counter(
            "isogon_refused_requests",
            "Requests answered with 429: the queue or the memory for bodies is full, or "
            "this client uses all of its share of that memory.",
            ("reason",),
        )
        for reason in ("queue", "memory", "client"):
            self.refused.labels(reason)
        self.held = self._gauge("isogon_held_bytes", "Bytes of all requests' bodies.", ())
        self.held_limit = self._gauge(
            "isogon_held_limit_bytes", "Bytes of bodies that may be held.", ()
        )
        self.decoding = self._gauge(
            "isogon_decoding_bytes", "Bytes reserved for decoding large images.", ()
        )
        self.decoding_limit = self._gauge(
            "isogon_decoding_limit_bytes",
            "Bytes for decoding all large images together.",
            (),
        )
        self.info = self._gauge(
            "isogon_model_info",
            "Always 1; its labels name the model that answers.",
            ("model", "fingerprint", "artifact", "runner"),
        )
        build = self._gauge(
            "isogon_build_info",
            "Always 1; its labels are versions.",
            ("version", "bentoml", "python"),
        )
        python = platform.python_version()
        build.labels(_version("isogon"), _version("bentoml"), python).set(1)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return all values and their content type, by an `Accept` header."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _counter(
        self, name: str, help: str, labels: tuple[str, ...] = ("model",)
    ) -> Counter:
        return Counter(name, help, labels, registry=self.registry)

    def _gauge(self, name: str, help: str, labels: tuple[str, ...] = ("model",)) -> Gauge:
        return Gauge(name, help, labels, registry=self.registry)

    def _seconds(
        self, name: str, help: str, labels: tuple[str, ...] = ("model",)
    ) -> Histogram:
        return Histogram(name, help, labels, registry=self.registry, buckets=_SECONDS)


class Metered(Observer):
    """Counts every step of one model's pipeline."""

    def __init__(
        self, metrics: Metrics, model: str, tracing: "Tracing | None" = None
    ) -> None:
        self._tracing = tracing
        self._depth = metrics.depth.labels(model)
        self._queued = metrics.queued.labels(model)
        self._decoded = metrics.decoded.labels(model)
        self._batched = metrics.batched.labels(model)
        self._ran = metrics.ran.labels(model)
        self._batch_images = metrics.batch_images.labels(model)

    def trail(self) -> Trail | None:
        """Return what traces the current request's steps; None if it is not traced."""
        return None if self._tracing is None else self._tracing.trail()

    def depth(self, images: int) -> None:
        """Set the gauge."""
        self._depth.set(images)

    def queued(self, seconds: float) -> None:
        """Count one image."""
        self._queued.observe(seconds)

    def decoded(self, seconds: float) -> None:
        """Count one image."""
        self._decoded.observe(seconds)

    def batched(self, seconds: float) -> None:
        """Count one image."""
        self._batched.observe(seconds)

    def ran(self, images: int, seconds: float) -> None:
        """Count one batch."""
        self._ran.observe(seconds)
        self._batch_images.observe(images)


@dataclass(frozen=True, slots=True, eq=False)  # a registry hashes it
class Summed(Collector):
    """Metrics of several processes, as a collector for a registry."""

    families: tuple[Metric, ...]

    def collect(self) -> Iterator[Metric]:
        """Yield each family."""
        yield from self.families


def summed(processes: Iterable[Iterable[Metric]]) -> tuple[Metric, ...]:
    """Return the sum of the metrics of all processes.

    Counters, histograms and gauges are added. `…_info`, which is always 1, stays 1. The
    least counts for the start time and the limit of open files.
    """
    found: dict[str, Metric] = {}
    for families in processes:
        for family in families:
            if family.name in found:
                _add(found[family.name], family)
            else:
                found[family.name] = copy.copy(family)
    return tuple(found.values())


def kept(families: Iterable[Metric]) -> tuple[Metric, ...]:
    """Return the metrics that are kept after a process has ended: counters, histograms."""
    return tuple(family for family in families if family.type in _ADDED)


def _add(into: Metric, family: Metric) -> None:
    values = {_key(sample): sample for sample in into.samples}
    for sample in family.samples:
        known = values.get(_key(sample))
        if known is None:
            values[_key(sample)] = sample
        elif family.name.endswith("_info"):
            pass
        elif family.name in _LEAST:
            values[_key(sample)] = min(known, sample, key=lambda each: each.value)
        else:
            values[_key(sample)] = sample._replace(value=known.value + sample.value)
    into.samples = list(values.values())


def _key(sample: object) -> tuple[str, tuple[tuple[str, str], ...]]:
    return sample.name, tuple(sorted(sample.labels.items()))  # type: ignore[attr-defined]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # in a Bento, whose tag has the version
        return "unknown"
