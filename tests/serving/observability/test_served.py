"""Metrics, logs and traces of a real service, over HTTP and with a real OTLP collector."""

import gzip
import json
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from isogon.bundle import Bundle, vouched_artifact
from serving import running_service

SECRET = "a-key-that-no-log-may-hold"
TRACE, PARENT = secrets.token_hex(16), secrets.token_hex(8)
WINDOW = 20

DEPLOY = Path(__file__).parents[3] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "isogon.json"
RULES = DEPLOY / "prometheus" / "alerts.yml"
# What Prometheus adds to a series, and what it makes itself.
TARGET = {"job", "instance"}
OF_PROMETHEUS = {"up": set[str]()}


class Collector(ThreadingHTTPServer):
    """An OpenTelemetry collector that keeps the spans it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Collecting)
        self.spans: list[Span] = []
        self.services: set[str] = set()

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            self.services.add(names["service.name"])
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)


class _Collecting(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.take(self.path, body)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """The metrics, logs and spans of one service, during its requests and after its end."""

    answers: dict[str, httpx.Response]
    metrics: str
    events: list[dict[str, Any]]
    log: str
    spans: list[Span]
    services: set[str]


@pytest.fixture(scope="module")
def observed(
    exported: Path,
    digits: Path,
    photographs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Observation]:
    """One service after good and bad requests, then ended."""
    log = tmp_path_factory.mktemp("observed") / "service.log"
    photo = (photographs / "chelsea.jpg").read_bytes()
    familiar = [path.read_bytes() for path in sorted(digits.rglob("*.png"))[:30]]
    collector = Collector()
    Thread(target=collector.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}"
        )
        patch.setenv("ISOGON_DRIFT_WINDOW", str(WINDOW))
        patch.setenv("ISOGON_DRIFT_RUN_LENGTH", "1e3")
        with (
            running_service(exported, log) as url,
            httpx.Client(base_url=url, timeout=60) as client,
        ):
            answers, metrics = _asked(client, photo, familiar)
    collector.shutdown()
    collector.server_close()
    text = log.read_text()
    events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    yield Observation(
        answers=answers,
        metrics=metrics,
        events=events,
        log=text,
        spans=collector.spans,
        services=collector.services,
    )


def _asked(
    client: httpx.Client, photo: bytes, familiar: list[bytes]
) -> tuple[dict[str, httpx.Response], str]:
    def images(*images: bytes) -> list[tuple[str, bytes]]:
        return [("images", image) for image in images]

    headers = {
        "x-request-id": "order-7/retry:2",
        "traceparent": f"00-{TRACE}-{PARENT}-01",
        "authorization": f"Bearer {SECRET}",
        "x-api-key": SECRET,
    }
    answers = {
        "good": client.post("/v1/embed", files=images(*familiar), headers=headers),
        "plain": client.post("/v1/score", files=images(photo, photo)),
        "bad id": client.post(
            "/v1/score", files=images(photo), headers={"x-request-id": 'a"b c'}
        ),
        "long id": client.post(
            "/v1/score", files=images(photo), headers={"x-request-id": "x" * 129}
        ),
        "bad image": client.post("/v1/embed", files=images(b"nope")),
        "refused": client.get(f"/v1/embed?key={SECRET}"),
        "ready": client.get("/readyz"),
    }
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda n: client.get(f"/nowhere/{n}/{secrets.token_hex(4)}"), range(50)
            )
        )
    client.request("PURGE", "/coffee")
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=")
    return answers, metrics.text


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(observed: Observation, name: str, **labels: str) -> float:
    return samples(observed.metrics)[name, frozenset(labels.items())]


def test_requests_are_counted_by_template_method_and_status(observed: Observation) -> None:
    for route, method, status, count in (
        ("/v1/embed", "POST", "200", 1),
        ("/v1/score", "POST", "200", 3),
        ("/v1/embed", "POST", "400", 1),
        ("/v1/embed", "GET", "405", 1),
        ("unmatched", "GET", "404", 50),
        ("unmatched", "other", "404", 1),
    ):
        labels = {"route": route, "method": method, "status": status}
        assert value(observed, "isogon_http_requests_total", **labels) == count
    name = "isogon_http_request_duration_seconds_count"
    assert value(observed, name, route="/v1/score", method="POST") == 3


def test_no_client_can_make_the_metrics_grow(observed: Observation) -> None:
    for family in text_string_to_metric_families(observed.metrics):
        for sample in family.samples:
            assert not re.search("nowhere|coffee|PURGE", str(sample.labels))


def test_images_and_their_steps_are_counted(observed: Observation) -> None:
    model = {"model": "digits"}
    assert value(observed, "isogon_images_total", **model) == 34
    flagged = sum(
        result["ood"]["is_ood"]
        for name in ("good", "plain", "bad id", "long id")
        for result in observed.answers[name].json()["results"]
    )
    assert value(observed, "isogon_images_flagged_total", **model) == flagged >= 4
    assert value(observed, "isogon_decode_duration_seconds_count", **model) == 35
    runs = value(observed, "isogon_run_duration_seconds_count", **model)
    assert value(observed, "isogon_batch_images_count", **model) == runs
    assert value(observed, "isogon_batch_images_sum", **model) == 34
    assert value(observed, "isogon_queue_wait_seconds_count", **model) == 35
    assert value(observed, "isogon_batch_wait_seconds_count", **model) == 34
    assert value(observed, "isogon_queue_images", **model) == 0
    assert value(observed, "process_resident_memory_bytes") > 2**25


def test_scores_have_buckets_of_the_models_own_scale(
    observed: Observation, exported: Path
) -> None:
    scores = [
        result["ood"]["score"]
        for name in ("good", "plain", "bad id", "long id")
        for result in observed.answers[name].json()["results"]
    ]
    found = samples(observed.metrics)
    buckets = {
        float(dict(labels)["le"]): count
        for (name, labels), count in found.items()
        if name == "isogon_ood_score_bucket"
    }
    assert len(buckets) >= 5
    for edge, count in buckets.items():
        assert count == sum(score <= edge for score in scores)
    total = value(observed, "isogon_ood_score_sum", model="digits")
    assert total == pytest.approx(sum(scores), rel=1e-5)
    calibration = vouched_artifact(Bundle.open(exported)).calibration.scores
    median = calibration[len(calibration) // 2]
    assert min(buckets) < median < sorted(buckets)[-2]


def test_the_drift_of_the_last_window_is_shown(observed: Observation) -> None:
    model = {"model": "digits"}
    assert value(observed, "isogon_drift_window_images", **model) == WINDOW
    distance = value(observed, "isogon_drift_distance", **model)
    threshold = value(observed, "isogon_drift_threshold", **model)
    assert 0 < distance < 1
    assert value(observed, "isogon_drift_alarm", **model) == (distance > threshold)
    assert 0 < value(observed, "isogon_drift_p_value", **model) <= 1


def test_the_metrics_name_what_answers(observed: Observation, exported: Path) -> None:
    artifact = vouched_artifact(Bundle.open(exported))
    (labels,) = (
        dict(labels)
        for name, labels in samples(observed.metrics)
        if name == "isogon_model_info"
    )
    assert labels["fingerprint"] == artifact.fingerprint
    assert labels["artifact"] == "onnx/model.onnx"
    assert labels["runner"].startswith("onnxruntime ")
    assert any(name == "isogon_build_info" for name, _ in samples(observed.metrics))


def test_names_follow_prometheuss_conventions(observed: Observation) -> None:
    families = list(text_string_to_metric_families(observed.metrics))
    ours = [family for family in families if family.name.startswith("isogon_")]
    assert len(ours) > 15
    assert all(family.name.startswith(("isogon_", "process_")) for family in families)
    measures = "seconds|images|bytes|info|score|alarm|distance|threshold|p_value"
    for family in ours:
        assert re.fullmatch("isogon_[a-z_]+", family.name)
        assert family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge", "histogram")
        if family.type == "counter":  # the parser takes `_total` off the family's name
            assert {sample.name for sample in family.samples} <= {f"{family.name}_total"}
        else:
            assert re.search(f"_({measures})$", family.name)
    lines = observed.metrics.splitlines()
    series = [line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")]
    assert len(series) == len(set(series))


def test_a_request_keeps_its_id_or_gets_one(observed: Observation) -> None:
    ids = {
        name: answer.headers["x-request-id"] for name, answer in observed.answers.items()
    }
    assert ids.pop("good") == "order-7/retry:2"
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in ids.values())
    assert len(set(ids.values())) == len(ids)


def access(observed: Observation, name: str) -> dict[str, Any]:
    id = observed.answers[name].headers["x-request-id"]
    (event,) = (
        event
        for event in observed.events
        if event.get("request_id") == id and event["logger"] == "isogon.access"
    )
    return event


def test_each_request_is_one_line_of_json(observed: Observation) -> None:
    event = access(observed, "good")
    assert {
        key: event[key] for key in ("level", "method", "route", "status", "images", "model")
    } == {
        "level": "info",
        "method": "POST",
        "route": "/v1/embed",
        "status": 200,
        "images": 30,
        "model": "digits",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
    assert 0 < event["seconds"] < 60
    assert event["request_bytes"] > 30 * 100
    assert event["response_bytes"] == len(observed.answers["good"].content)
    assert event["trace_id"] == TRACE
    bad = access(observed, "bad image")
    assert (bad["status"], bad["images"], "model" in bad) == (400, 0, False)
    assert access(observed, "refused")["route"] == "/v1/embed"


def test_probes_scrapes_secrets_and_queries_are_not_logged(observed: Observation) -> None:
    assert SECRET not in observed.log
    assert SECRET not in observed.metrics
    routes = [event.get("route") for event in observed.events]
    assert "/metrics" not in routes
    assert "/readyz" not in routes
    assert routes.count("unmatched") == 51
    assert "uvicorn.access" not in observed.log
    assert '"GET /' not in observed.log  # as uvicorn or BentoML would write it


def test_a_request_is_traced_with_its_steps_below_the_clients_span(
    observed: Observation,
) -> None:
    spans = [span for span in observed.spans if span.trace_id.hex() == TRACE]
    (root,) = (span for span in spans if span.parent_span_id.hex() == PARENT)
    assert root.name == "POST /v1/embed"
    assert root.kind == Span.SPAN_KIND_SERVER
    attributes = {a.key: a.value for a in root.attributes}
    assert attributes["http.route"].string_value == "/v1/embed"
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["isogon.request_id"].string_value == "order-7/retry:2"
    assert attributes["isogon.images"].int_value == 30
    steps = [span for span in spans if span is not root]
    assert {span.parent_span_id for span in steps} == {root.span_id}
    assert {span.name for span in steps} == {"queue", "decode", "batch", "run"}
    for name in ("queue", "decode"):
        assert sum(span.name == name for span in steps) == 30
    for name in ("batch", "run"):
        taken = [
            a.value.int_value
            for span in steps
            if span.name == name
            for a in span.attributes
        ]
        assert sum(taken) == 30
    for span in steps:
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano + 50_000_000
    assert observed.services == {"isogon"}


def test_a_request_without_a_trace_starts_one(observed: Observation) -> None:
    id = access(observed, "plain")["trace_id"]
    spans = [span for span in observed.spans if span.trace_id.hex() == id]
    assert id != TRACE
    assert sum(not span.parent_span_id for span in spans) == 1


def expressions() -> Iterator[str]:
    """Yield every PromQL expression of the dashboard and of the alert rules."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


def named(expression: str) -> dict[str, set[str]]:
    """Return each metric of an expression, with the labels that the expression uses."""
    plain = expression.replace("$__rate_interval", "5m")  # what Grafana puts there
    return _named(promql_parser.parse(plain), set())


def _named(node: Any, grouped: set[str]) -> dict[str, set[str]]:
    """Visit the parts of an expression; `grouped` applies to all of them."""
    if isinstance(node, promql_parser.VectorSelector):
        return {node.name: grouped | {one.name for one in node.matchers.matchers}}
    if (modifier := getattr(node, "modifier", None)) is not None:
        grouped = grouped | set(getattr(modifier, "matching", modifier).labels)
    parts = [
        getattr(node, name, None) for name in ("expr", "lhs", "rhs", "vector_selector")
    ]
    found: dict[str, set[str]] = {}
    for part in [*parts, *(getattr(node, "args", None) or [])]:
        if part is not None:
            for name, labels in _named(part, grouped).items():
                found.setdefault(name, set()).update(labels)
    return found


def labels_of_series(observed: Observation) -> dict[str, set[str]]:
    found: dict[str, set[str]] = dict(OF_PROMETHEUS)
    for name, labels in samples(observed.metrics):
        found.setdefault(name, set()).update(dict(labels))
    return found


def test_dashboard_and_rules_name_only_what_the_service_exposes(
    observed: Observation,
) -> None:
    series = labels_of_series(observed)
    used: set[str] = set()
    for expression in expressions():
        names = named(expression)
        assert names, expression
        for name, labels in names.items():
            assert name in series, f"{name} in {expression}"
            assert labels <= series[name] | TARGET, expression
            used.add(name)
    ours = {name for name in series if re.fullmatch("isogon_.*(?<!_sum)(?<!_count)", name)}
    assert ours - used <= {"isogon_drift_window_images"}


def test_the_dashboards_variables_are_labels_that_exist(observed: Observation) -> None:
    series = labels_of_series(observed)
    dashboard = json.loads(DASHBOARD.read_text())
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()
            assert label in series[metric] | TARGET
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text()))
    assert used <= names | {"__rate_interval", "__all"}


def test_alerts_mention_only_labels_that_their_expression_keeps(
    observed: Observation,
) -> None:
    series = labels_of_series(observed)
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            expression = rule["expr"]
            grouped = re.findall(r"\bby \(([^)]*)\)", expression)
            kept = (
                set(re.findall(r"\w+", grouped[0])) - {"le"}
                if grouped
                else set.union(*(series[name] for name in named(expression))) | TARGET
            )
            told = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
            assert told <= kept, rule["alert"]


def test_the_dashboards_panels_do_not_overlap_and_have_different_titles() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def test_prometheus_scrapes_the_metrics_and_reads_the_rules() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("isogon", "/metrics")
    assert config["rule_files"] == [RULES.name]
