"""Observations of answers, with real models and no server."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from isogon.errors import UsageError
from serving.observability.installation import install_observability, start_observability
from serving.observability.metrics import Metrics
from serving.observability.observations import Observations, bucket_edges
from serving.served_model import ServedModel
from serving.settings import Settings


@pytest.fixture(scope="module")
def model(exported: Path) -> ServedModel:
    return ServedModel.load(exported, Settings(bundle=exported, drift_window=10))


def values(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    content, _ = metrics.expose("")
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(content.decode())
        for sample in family.samples
        if sample.name == name
    }


def test_a_model_that_replaces_one_starts_afresh_and_counters_go_on(
    model: ServedModel,
) -> None:
    metrics = Metrics()
    observations = Observations(metrics)
    observations.observer(model)
    unlike = np.full(10, 1e6, np.float32)
    observations.seen(model, unlike, np.ones(10, bool))
    assert values(metrics, "isogon_drift_alarm") == {("digits",): 1}
    newer = replace(model, artifact=replace(model.artifact, fingerprint="f" * 64))
    observations.observer(newer)
    assert [labels[1] for labels in values(metrics, "isogon_model_info")] == ["f" * 64]
    assert values(metrics, "isogon_drift_alarm") == {("digits",): 0}
    observations.seen(model, unlike, np.ones(10, bool))  # a late answer of the old one
    assert values(metrics, "isogon_drift_alarm") == {("digits",): 0}
    assert values(metrics, "isogon_ood_score_count") == {("digits",): 0}
    assert values(metrics, "isogon_images_flagged_total") == {("digits",): 20}


def test_scores_that_are_no_numbers_are_counted_and_spoil_no_sum(
    model: ServedModel,
) -> None:
    metrics = Metrics()
    observations = Observations(metrics)
    observations.observer(model)
    scores = np.array([np.nan, np.inf, 0.5], np.float32)
    observations.seen(model, scores, np.array([True, True, False]))
    assert values(metrics, "isogon_ood_score_sum") == {("digits",): 0.5}
    assert values(metrics, "isogon_ood_score_count") == {("digits",): 3}


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_buckets_follow_the_detectors_scale(scale: float) -> None:
    scores = np.random.default_rng(0).normal(5, 1, 500) * scale
    edges = bucket_edges(scores)
    assert (np.diff(edges) > 0).all()
    shares = np.searchsorted(np.sort(scores), edges) / len(scores)
    assert (
        np.abs(shares[:10] - [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1]).max()
        < 0.03
    )
    assert edges[-1] > scores.max() + np.ptp(scores)


def test_scores_that_are_all_alike_have_a_bucket() -> None:
    assert bucket_edges(np.full(50, 2.0)).tolist() == [2.0]


def test_a_second_worker_is_refused_because_it_would_count_apart(exported: Path) -> None:
    app = FastAPI()
    install_observability(app)
    with pytest.raises(
        UsageError, match="one worker process of BentoML, and this is number 2"
    ):
        start_observability(app, Settings(bundle=exported), 2)


def test_untraced_the_service_imports_no_exporter_and_keeps_values_in_memory(
    tmp_path: Path,
) -> None:
    code = """
import sys, serving.observability.installation
from prometheus_client.values import ValueClass
assert serving.observability.traces.tracing_from_environment() is None
print(ValueClass.__name__, any("opentelemetry.sdk" in name for name in sys.modules))
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        check=True,
    )
    assert found.stdout.split() == ["MutexValue", "False"]
