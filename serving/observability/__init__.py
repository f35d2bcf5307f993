"""Observability of the service: metrics, logs, traces, and drift of its traffic."""

import os

# BentoML sets this for several worker processes. Ours keep values in memory, and their
# supervisor sums them. prometheus_client reads the variable when it is imported.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

from serving.observability.installation import (
    install_observability as install_observability,
    start_logging as start_logging,
    start_observability as start_observability,
    start_tracing as start_tracing,
    stop_observability as stop_observability,
)
from serving.observability.metrics import Metrics as Metrics
from serving.observability.observations import Observations as Observations
from serving.observability.traces import traces_are_asked_for as traces_are_asked_for
