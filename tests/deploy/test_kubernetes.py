"""The Kubernetes manifests agree with Kubernetes' schemas and with each other."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serving.observability.metrics import Metrics
from serving.settings import Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
MANIFESTS = sorted(
    path
    for path in FOLDER.glob("*/*.yaml")
    if path.name not in ("kustomization.yaml", "mount.yaml")
)
BY_KIND = {
    document["kind"]: document
    for document in map(lambda p: yaml.safe_load(p.read_text()), MANIFESTS)
}
POD = BY_KIND["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]


def pointed(document: Any, path: str) -> tuple[Any, str]:
    """Return the container and key that a JSON pointer leads to."""
    *parents, last = path.removeprefix("/").split("/")
    for part in parents:
        document = document[int(part) if isinstance(document, list) else part]
    return document, last


def patched(document: dict[str, Any], patch: list[dict[str, Any]]) -> dict[str, Any]:
    """Apply the operations of RFC 6902 that `mount.yaml` uses."""
    document = json.loads(json.dumps(document))
    for operation in patch:
        target, key = pointed(document, operation["path"])
        if operation["op"] == "test":
            assert target[key] == operation["value"], operation
        elif operation["op"] == "replace":
            assert key in target
            target[key] = operation["value"]
        else:
            assert (operation["op"], key) == ("add", "-")
            target.append(operation["value"])
    return document


def on_volume() -> dict[str, Any]:
    patch = yaml.safe_load((FOLDER / "volume" / "mount.yaml").read_text())
    return patched(BY_KIND["Deployment"], patch)


@pytest.mark.parametrize("version", ["1.30", "1.33", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_follows_its_schema(path: Path, version: str) -> None:
    kubernetes_validate.validate(yaml.safe_load(path.read_text()), version, strict=True)


def test_the_schemas_find_a_fault() -> None:
    wrong = json.loads(json.dumps(BY_KIND["Deployment"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


def test_what_is_listed_is_there_and_the_other_way_round() -> None:
    for folder in ("base", "volume"):
        listed = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())
        found = {path.name for path in MANIFESTS if path.parent.name == folder}
        assert set(listed["resources"]) - {"../base"} == found
    assert BY_KIND.keys() == {
        *("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"),
        *("NetworkPolicy", "PersistentVolumeClaim"),
    }


def test_everything_selects_the_same_pods() -> None:
    labels = POD["metadata"]["labels"]
    specs = {kind: document["spec"] for kind, document in BY_KIND.items()}
    assert specs["Deployment"]["selector"]["matchLabels"] == labels
    assert specs["Service"]["selector"] == labels
    assert specs["PodDisruptionBudget"]["selector"]["matchLabels"] == labels
    assert specs["NetworkPolicy"]["podSelector"]["matchLabels"] == labels
    (spread,) = POD["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    scaled = specs["HorizontalPodAutoscaler"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", "isogon")
    assert "replicas" not in specs["Deployment"]


def test_every_port_is_the_one_that_the_container_opens() -> None:
    (port,) = CONTAINER["ports"]
    assert port == {"name": "http", "containerPort": 3000}
    (service,) = BY_KIND["Service"]["spec"]["ports"]
    assert service["targetPort"] == port["name"]
    (rule,) = BY_KIND["NetworkPolicy"]["spec"]["ingress"]
    assert rule["ports"] == [{"port": port["name"]}]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["httpGet"]["port"] == port["name"]
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == "3000"


def test_every_variable_is_a_setting() -> None:
    kustomization = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())
    (settings,) = kustomization["configMapGenerator"]
    (reference,) = CONTAINER["envFrom"]
    assert reference["configMapRef"]["name"] == settings["name"]
    values = dict(literal.split("=", 1) for literal in settings["literals"])
    names = {*values, *(variable["name"] for variable in CONTAINER["env"])}
    ours = {name for name in names if name.startswith("ISOGON_")}
    assert names == ours
    assert ours <= {f"ISOGON_{name.upper()}" for name in Settings.model_fields}
    assert float(values["ISOGON_DEADLINE"]) == Settings.model_fields["deadline"].default
    assert int(values["ISOGON_QUEUE"]) == Settings.model_fields["queue"].default


def test_a_pod_that_ends_has_time_to_answer_what_it_accepted() -> None:
    deadline = Settings.model_fields["deadline"].default
    pause = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pause + deadline + 5 < POD["spec"]["terminationGracePeriodSeconds"]


def test_what_is_written_goes_to_a_volume() -> None:
    for pod in (POD, on_volume()["spec"]["template"]):
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert mounts.keys() == {volume["name"] for volume in pod["spec"]["volumes"]}
        assert mounts["tmp"]["mountPath"] == "/tmp"


def test_the_bundle_on_a_volume_is_where_it_is_looked_for() -> None:
    deployment = on_volume()
    kubernetes_validate.validate(deployment, "1.33", strict=True)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mount = next(m for m in container["volumeMounts"] if m["name"] == "bundles")
    assert container["args"][1].startswith(mount["mountPath"] + "/")
    volume = next(v for v in pod["volumes"] if v["name"] == "bundles")
    claim = BY_KIND["PersistentVolumeClaim"]["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim
    assert mount["readOnly"] is volume["persistentVolumeClaim"]["readOnly"] is True


def test_the_autoscaler_and_the_adapter_name_a_metric_of_the_service() -> None:
    metrics = Metrics()
    (metric,) = BY_KIND["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in {family.name for family in metrics.registry.collect()}
    adapter = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert rule["seriesQuery"].startswith(name + "{")
    assert rule["resources"]["overrides"].keys() == {"namespace", "pod"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", ["base", "volume"])
def test_kustomize_renders_them(folder: str) -> None:
    rendered = subprocess.run(
        ["kubectl", "kustomize", FOLDER / folder], capture_output=True, text=True
    )
    assert rendered.returncode == 0, rendered.stderr
    documents = list(yaml.safe_load_all(rendered.stdout))
    for document in documents:
        kubernetes_validate.validate(document, "1.33", strict=True)
    assert len(documents) == (7 if folder == "volume" else 6)
    if folder == "volume":
        (deployment,) = (d for d in documents if d["kind"] == "Deployment")
        ours = on_volume()["spec"]["template"]["spec"]
        theirs = deployment["spec"]["template"]["spec"]
        assert theirs["volumes"] == ours["volumes"]
        assert theirs["containers"][0]["args"] == ours["containers"][0]["args"]
