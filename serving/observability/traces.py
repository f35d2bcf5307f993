"""OpenTelemetry traces, if the standard environment variables ask for them.

Otherwise nothing of OpenTelemetry is imported, and a request costs one branch. BentoML's
own middleware costs half of its throughput and does not trace images; `serving.bento`
turns it off. No global provider is set: FastAPI would add its own spans. Sampling, limits,
headers, the service's name and so on are set by the SDK's variables
(`OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, …).
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from isogon.errors import UsageError

if TYPE_CHECKING:
    from serving.observability.spans import Tracing

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"


def traces_are_asked_for(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment asks for traces.

    An OTLP endpoint or `OTEL_TRACES_EXPORTER=otlp` asks for them;
    `OTEL_TRACES_EXPORTER=none` or `OTEL_SDK_DISABLED=true` turns them off.

    Raises:
        UsageError: an exporter or a protocol that this service does not have.
    """
    endpoint = any(environment.get(name) for name in _ENDPOINTS)
    exporter = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if endpoint else "none")
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if disabled or exporter == "none":
        return False
    if exporter != "otlp":
        raise UsageError(
            f"OTEL_TRACES_EXPORTER: expected otlp or none, got {exporter!r}. Send traces "
            f"by OTLP; a collector can forward them to any other system."
        )
    protocols = (environment.get(name) for name in _PROTOCOLS)
    protocol = next(filter(None, protocols), _HTTP)
    if protocol != _HTTP:
        raise UsageError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL: expected {_HTTP}, got {protocol!r}. Unset it; "
            f"collectors take OTLP over HTTP on port 4318."
        )
    return True


def tracing_from_environment() -> "Tracing | None":
    """Return what makes spans; None if no traces are asked for.

    Raises:
        UsageError: an exporter or a protocol that this service does not have.
    """
    if not traces_are_asked_for():
        return None
    from serving.observability.spans import Tracing

    return Tracing.to_collector()
