"""What the image is built from: its requirements, its context, the trial's base."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@pytest.mark.parametrize("wheel", ["onnxruntime", "onnxruntime-gpu[cuda,cudnn]"])
def test_the_image_requires_what_serving_does_at_the_pinned_versions(
    wheel: str, tmp_path: Path
) -> None:
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    script = [sys.executable, str(DEPLOY / "requirements.py"), wheel]
    subprocess.run(script, cwd=tmp_path, check=True)
    written = {
        name: [Requirement(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("requirements.txt", "pinned.txt")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["serving"]
    linux = [r for r in written["requirements.txt"] if not r.marker or r.marker.evaluate()]
    (runtime,) = (r for r in linux if r.name.startswith("onnxruntime"))
    assert f"{runtime.name}{'[cuda,cudnn]' if runtime.extras else ''}" == wheel
    assert len(written["requirements.txt"]) == len(asked)
    pinned = {r.name: str(r.specifier) for r in written["pinned.txt"]}
    assert pinned[runtime.name].removeprefix("==") in runtime.specifier
    assert all(r.name in pinned for r in linux)


def test_what_is_copied_into_the_image_is_let_through_and_there() -> None:
    copied = {
        name
        for line in (DEPLOY / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert copied == {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_sends_no_usage_data() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"BENTOML_DO_NOT_TRACK=True\b", dockerfile)
    assert re.search(r"ORT_DISABLE_TELEMETRY=1\b", dockerfile)
