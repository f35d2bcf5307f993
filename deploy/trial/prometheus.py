"""A real Prometheus for the trial: it runs our alerts and the dashboard's expressions."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from serving.process import free_port

_DEPLOY = Path(__file__).parents[1]
ALERTS = _DEPLOY / "prometheus" / "alerts.yml"
_DASHBOARD = _DEPLOY / "grafana" / "isogon.json"
# Values in place of Grafana's variables.
_VARIABLES = {"$instance": ".+", "$model": ".+", "$__rate_interval": "1m"}


class Prometheus:
    """Answers queries; scrapes every second."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=30)

    def ready(self) -> bool:
        """Whether it answers yet."""
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def result(self, expression: str) -> list[Any]:
        """Return the current series of an expression.

        Raises:
            ValueError: Prometheus does not understand it.
        """
        answer = self._client.get("/api/v1/query", params={"query": expression}).json()
        if answer["status"] != "success":
            raise ValueError(f"{expression}: {answer['error']}")
        found: list[Any] = answer["data"]["result"]
        return found

    def firing(self) -> set[str]:
        """Return the alerts that fire now."""
        alerts = self._client.get("/api/v1/alerts").json()["data"]["alerts"]
        return {a["labels"]["alertname"] for a in alerts if a["state"] == "firing"}

    def unhealthy_rules(self) -> list[str]:
        """Return the rules that could not be evaluated."""
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return [rule["name"] for rule in rules if rule["health"] == "err"]


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Run Prometheus on `target`, with our alerts set to fire at once (`for: 0s`)."""
    document = yaml.safe_load(ALERTS.read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["for"] = "0s"
    (folder / "alerts.yml").write_text(yaml.safe_dump(document))
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [
            {"job_name": "isogon", "static_configs": [{"targets": [target]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *("prometheus", f"--config.file={folder}/prometheus.yml"),
                *(f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address={address}"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        client = Prometheus(f"http://{address}")
        for _ in range(300):
            if client.ready():
                break
            time.sleep(0.2)
        yield client
    finally:
        process.terminate()
        process.wait(30)


def alert_names() -> set[str]:
    """Return the alerts that alerts.yml has."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"] for group in groups for rule in group["rules"]}


def dashboard_expressions() -> list[str]:
    """Return every expression of the dashboard, its variables filled in."""
    panels = json.loads(_DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    for name, value in _VARIABLES.items():
        found = [expression.replace(name, value) for expression in found]
    return found


def promtool() -> str:
    """Check the rules and run their tests; return what promtool says, or raise."""
    tests = ALERTS.with_name("alerts_test.yml")
    for command in (("check", "rules", ALERTS), ("test", "rules", tests)):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True)
        if done.returncode != 0:
            raise ValueError(f"promtool: {done.stdout} {done.stderr}")
    return f"{len(alert_names())} alerts, each fires in its test"
