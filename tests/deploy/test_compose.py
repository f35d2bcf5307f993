"""The compose file agrees with the Compose Specification's schema and with the code."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from serving.settings import Settings

FOLDER = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SCHEMA = get_builtin_schema("vendor.compose-spec")
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def mounts() -> list[tuple[str, Path, str]]:
    """Return service, file beside the compose file and path inside of every bind."""
    found = []
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                found.append((name, FOLDER / source, target))
            else:
                assert source in COMPOSE["volumes"], volume
    return found


def mounted(service: str, path: str) -> Path:
    """Return the file here that a service sees at `path`."""
    for name, source, target in mounts():
        if name == service and path.startswith(target):
            return source / path.removeprefix(target).lstrip("/")
    raise AssertionError(f"{service} has nothing at {path}")


def test_it_follows_the_compose_specification() -> None:
    VALIDATOR.validate(COMPOSE)
    wrong = json.loads(json.dumps(COMPOSE))
    wrong["services"]["isogon"]["prots"] = ["3000:3000"]
    assert not VALIDATOR.is_valid(wrong)


def test_every_mounted_file_is_there() -> None:
    assert len(mounts()) == 4
    for _, source, _ in mounts():
        assert source.exists(), source


def test_every_image_is_pinned_and_ours_is_named_as_in_the_page() -> None:
    ours = SERVICES["isogon"]["image"]
    assert ours == "${ISOGON_IMAGE:-isogon:latest}"
    page = (FOLDER / "README.md").read_text()
    assert "deploy/image.py quickstart.isogon --tag isogon:latest" in page
    for name in SERVICES.keys() - {"isogon"}:
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_every_port_is_for_this_machine_only() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items()}
    assert published == {
        "isogon": ["127.0.0.1:${ISOGON_PORT:-3000}:3000"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3001:3000"],
    }


def test_every_variable_is_a_setting() -> None:
    names = set(SERVICES["isogon"]["environment"])
    ours = {name for name in names if name.startswith("ISOGON_")}
    assert names == ours
    assert ours <= {f"ISOGON_{name.upper()}" for name in Settings.model_fields}
    # An empty value would be a wrong list of keys; a missing one means no keys.
    assert SERVICES["isogon"]["environment"]["ISOGON_API_KEYS"] is None


def test_it_runs_as_in_kubernetes() -> None:
    manifest = FOLDER / "kubernetes" / "base" / "deployment.yaml"
    pod = yaml.safe_load(manifest.read_text())["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ours = SERVICES["isogon"]
    instructions = (FOLDER / "Dockerfile").read_text().splitlines()
    (command,) = (line for line in instructions if line.startswith("CMD "))
    assert json.loads(command.removeprefix("CMD ")) == container["args"]
    assert f"USER {ours['user']}" in instructions
    user = pod["securityContext"]["runAsUser"]
    assert ours["user"] == f"{user}:{user}"
    assert ours["read_only"] is container["securityContext"]["readOnlyRootFilesystem"]
    ends = Settings.model_fields["deadline"].default + 5
    assert ends < int(ours["stop_grace_period"].removesuffix("s"))


def test_docker_20_knows_every_key_of_the_health_check() -> None:
    known = {"test", "interval", "timeout", "start_period", "retries"}
    assert SERVICES["isogon"]["healthcheck"].keys() <= known


def test_prometheus_asks_the_service_and_grafana_asks_prometheus() -> None:
    (source,) = yaml.safe_load(
        mounted(
            "grafana", "/etc/grafana/provisioning/datasources/prometheus.yaml"
        ).read_text()
    )["datasources"]
    address = urlsplit(source["url"])
    assert (address.hostname, address.port) == ("prometheus", 9090)
    assert address.hostname in SERVICES
    config = yaml.safe_load(
        mounted("prometheus", "/etc/prometheus/prometheus.yml").read_text()
    )
    targets = [
        target
        for job in config["scrape_configs"]
        for static in job.get("static_configs", ())
        for target in static["targets"]
    ]
    assert "isogon:3000" in targets
    for rules in config["rule_files"]:
        name = rules if rules.startswith("/") else f"/etc/prometheus/{rules}"
        assert mounted("prometheus", name).is_file()


def test_grafana_finds_the_dashboard_at_the_configured_place() -> None:
    (provider,) = yaml.safe_load(
        mounted("grafana", "/etc/grafana/provisioning/dashboards/isogon.yaml").read_text()
    )["providers"]
    folder = provider["options"]["path"]
    (inside,) = (t for s, _, t in mounts() if s == "grafana" and t.endswith(".json"))
    assert inside.rpartition("/")[0] == folder
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == inside
