"""`bentoml build`: the content of the Bento, and that it serves without anything else.

The Bento is exported, unpacked and started by the script that is its container's entry
point, in a virtual environment of the packages that its requirements ask for.
"""

import json
import os
import subprocess
import sys
import tarfile
import time
import tomllib
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from packaging.requirements import Requirement

from serving.process import free_port

ROOT = Path(__file__).parents[2]
TEMPLATE = yaml.safe_load((ROOT / "deploy/kubernetes/base/deployment.yaml").read_text())[
    "spec"
]["template"]
POD = TEMPLATE["spec"]
ABSENT = ("torch", "torchvision", "timm", "onnx", "lightning_fabric", "sklearn", "distill")


def run(*command: object, home: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def unpacked(tag: str, home: Path, folder: Path) -> Path:
    """Export a Bento and unpack the archive elsewhere."""
    archive = folder / "isogon.bento"
    run("bentoml", "export", tag, archive, home=home)
    with tarfile.open(archive) as opened:
        opened.extractall(folder / "bento", filter="data")
    return folder / "bento"


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bento of bentofile.yaml, without a bundle."""
    home = tmp_path_factory.mktemp("bentoml")
    printed = run("bentoml", "build", "--output", "tag", ROOT, home=home)
    return unpacked(
        printed.strip().removeprefix("__tag__:"), home, tmp_path_factory.mktemp("plain")
    )


@pytest.fixture(scope="module")
def bento_with_bundle(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("bentoml")
    made = json.loads(run("isogon", "publish", exported, "--bento", "--json", home=home))
    return unpacked(made["bento"], home, tmp_path_factory.mktemp("with-bundle"))


@pytest.fixture(scope="module")
def environment(bento: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds what the Bento requires, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    wanted = (bento / "env/python/requirements.txt").read_text().splitlines()
    pending = [(Requirement(line), "") for line in wanted]
    seen = set()
    while pending:
        requirement, extra = pending.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        found = distribution(requirement.name)
        assert found.version in requirement.specifier, requirement
        for name in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            link = packages / name
            if not name.endswith(".pth") and not link.exists():
                link.symlink_to(str(found.locate_file(name)))
        for asked in ("", *requirement.extras):
            if (requirement.name, asked) not in seen:
                seen.add((requirement.name, asked))
                pending += [(Requirement(line), asked) for line in found.requires or ()]
    script = folder / "bin" / "bentoml"
    script.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m bentoml "$@"\n')
    script.chmod(0o755)
    return folder


@contextmanager
def container(
    bento: Path, environment: Path, home: Path, bundle: str
) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """Start the Bento's entry point as its image does; yield a client and its process."""
    port = free_port()
    log = home / "log"
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
        log.open("wb") as output,
        subprocess.Popen(
            [
                *("bash", bento / "env/docker/entrypoint.sh"),
                *(
                    "serve",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(port),
                ),
            ],
            cwd=home,
            stdout=output,
            stderr=output,
            env={
                "PATH": f"{environment}/bin:/usr/bin:/bin",
                "BENTO_PATH": str(bento),
                "BENTOML_HOME": str(home / "bentoml"),
                "BENTOML_DO_NOT_TRACK": "True",
                "ISOGON_BUNDLE": bundle,
            },
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            else:
                pytest.fail(log.read_text())
            yield client, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(30)


def test_the_bento_holds_isogon_and_serving_and_nothing_else(bento: Path) -> None:
    source = bento / "src"
    found = {
        path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()
    }
    expected = {
        path.relative_to(ROOT).as_posix()
        for folder in ("isogon", "serving")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "serving/page/index.html" in expected
    assert found - {"bentofile.yaml"} == expected
    assert not (bento / "models").exists() or not any((bento / "models").iterdir())


def test_the_bento_requires_the_base_and_the_serving_extra(bento: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["serving"]
    bentofile = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    assert sorted(bentofile["python"]["packages"]) == sorted(wanted)
    # What the image installs: the same, and BentoML at the version that built the Bento.
    installed = (bento / "env/python/requirements.txt").read_text().splitlines()
    ours = f"bentoml=={distribution('bentoml').version}"
    assert {str(Requirement(line)) for line in installed} == {
        str(Requirement(line)) for line in [*wanted, ours]
    }


def test_the_image_knows_its_bundle_and_sends_no_usage_data(bento: Path) -> None:
    dockerfile = (bento / "env/docker/Dockerfile").read_text()
    assert "ARG ISOGON_BUNDLE=bentoml:bundle\n" in dockerfile
    assert "ARG BENTOML_DO_NOT_TRACK=True\n" in dockerfile
    assert "ARG ORT_DISABLE_TELEMETRY=1\n" in dockerfile
    assert "\nEXPOSE 3000\n" in dockerfile
    assert "\nUSER bentoml\n" in dockerfile
    user = POD["securityContext"]["runAsUser"]
    assert f"ARG BENTO_USER_UID={user}\n" in dockerfile
    assert "/bento/env/docker/entrypoint.sh" in dockerfile


def test_the_bento_serves_a_bundle_that_is_mounted_beside_it(
    bento: Path, environment: Path, exported: Path, photographs: Path, tmp_path: Path
) -> None:
    photo = (photographs / "coffee.jpg").read_bytes()
    with container(bento, environment, tmp_path, str(exported)) as (client, _):
        answer = client.post("/v1/embed", files={"images": photo}, timeout=30)
        assert answer.status_code == 200, answer.text
        assert answer.json()["width"] == 32
        paths = [
            value["httpGet"]["path"]
            for value in POD["containers"][0].values()
            if "httpGet" in value
        ]
        assert len(paths) == 3
        scraped = TEMPLATE["metadata"]["annotations"]["prometheus.io/path"]
        for path in ("/", scraped, *paths):
            assert client.get(path).status_code == 200, path
        assert "<main" in client.get("/").text


def test_the_bento_serves_the_bundle_inside_it_without_torch(
    bento_with_bundle: Path,
    environment: Path,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in ABSENT:
        tried = subprocess.run(
            [environment / "bin/python", "-c", f"import {module}"],
            capture_output=True,
            cwd=tmp_path,
        )
        assert b"ModuleNotFoundError" in tried.stderr, module
    photo = (photographs / "coffee.jpg").read_bytes()
    with container(bento_with_bundle, environment, tmp_path, "bentoml:bundle") as (
        client,
        parent,
    ):
        answer = client.post("/v1/embed", files={"images": photo}, timeout=30)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"]["name"] == "digits"
        processes = [parent, *parent.children(recursive=True)]
        mapped = {m.path for process in processes for m in process.memory_maps()}
        assert any("onnxruntime" in path for path in mapped)  # so the worker is among them
        assert not [path for path in mapped if "libtorch" in path or "/torch/" in path]
        resident = {p.pid: p.memory_info().rss / 2**20 for p in processes}
    with capsys.disabled():
        shown = ", ".join(f"{size:.0f}" for size in resident.values())
        print(f"\nresident memory of the Bento's processes: {shown} MiB")
