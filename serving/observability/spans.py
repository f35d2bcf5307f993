"""The trace spans of a request and its images' steps; imported only if traces are sent."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from serving.batching import Trail
from serving.observability.requests import ServedRequest

_FAILED = 500


class Tracing:
    """Makes spans and hands them to a processor.

    Args:
        processor: receives each span when it ends.
    """

    def __init__(self, processor: SpanProcessor) -> None:
        named = Resource.create({SERVICE_NAME: "isogon"})
        provider = TracerProvider(resource=named.merge(OTELResourceDetector().detect()))
        provider.add_span_processor(processor)
        self._provider = provider
        self._tracer = provider.get_tracer("isogon")

    @classmethod
    def to_collector(cls) -> Self:
        """Return one that sends spans to the collector that the environment names."""
        return cls(BatchSpanProcessor(OTLPSpanExporter()))

    @contextmanager
    def request(self, headers: Mapping[str, str], method: str) -> Iterator[Span]:
        """Open the span of a request, in the trace that its headers name, if any."""
        with self._tracer.start_as_current_span(
            method,
            context=propagate.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method},
        ) as span:
            yield span

    def describe(self, span: Span, method: str, route: str, request: ServedRequest) -> None:
        """Set a span's name and attributes, by OpenTelemetry's conventions for HTTP."""
        span.update_name(f"{method} {route}")
        span.set_attributes(
            {
                "http.route": route,
                "http.response.status_code": request.status,
                "isogon.request_id": request.id,
                "isogon.images": request.images,
                "isogon.model": request.model or "",
            }
        )
        if request.status >= _FAILED:
            span.set_status(Status(StatusCode.ERROR))

    def close(self) -> None:
        """Send the remaining spans."""
        self._provider.shutdown()

    def trail(self) -> Trail | None:
        """Return what makes spans of the current request's steps; None: not sampled."""
        if not trace.get_current_span().is_recording():
            return None
        return SpanTrail(self._tracer, trace.set_span_in_context(trace.get_current_span()))


class SpanTrail(Trail):
    """Makes a span of each step, as a child of the request's span."""

    def __init__(self, tracer: trace.Tracer, parent: Context) -> None:
        self._tracer = tracer
        self._parent = parent

    def step(self, name: str, start: float, end: float, images: int) -> None:
        """Make the span of a step that has ended; from any thread."""
        epoch = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(
            name,
            context=self._parent,
            attributes={"isogon.images": images},
            start_time=epoch + round(start * 1e9),
        )
        span.end(epoch + round(end * 1e9))
