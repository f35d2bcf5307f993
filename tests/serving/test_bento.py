"""`bentoml build`: what the Bento holds, and that it serves without the project."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from pathlib import Path

import httpx
import pytest
import yaml

from serving.process import free_port

ROOT = Path(__file__).parents[2]


def environment(home: Path) -> dict[str, str]:
    return os.environ | {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "OTEL_SDK_DISABLED": "true",
    }


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a freshly built Bento."""
    home = tmp_path_factory.mktemp("bentoml")
    built = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", "--output", "tag", str(ROOT)],
        capture_output=True,
        text=True,
        env=environment(home),
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (folder,) = (path for path in (home / "bentos" / "isogon").iterdir() if path.is_dir())
    return folder


def test_the_bento_holds_bundle_and_serving_and_nothing_else(bento: Path) -> None:
    source = bento / "src"
    found = {
        path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()
    }
    expected = {
        path.relative_to(ROOT).as_posix()
        for folder in ("bundle", "serving")
        for path in (ROOT / folder).rglob("*.py")
    } | {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "serving").rglob("*")
        if path.suffix in {".css", ".html", ".js", ".json"}
    }
    assert "serving/page/index.html" in expected
    assert found - {"bentofile.yaml"} == expected | {"bundle/README.md"}


def test_the_bento_requires_the_base_and_the_serving_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["serving"]
    bentofile = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    assert sorted(bentofile["python"]["packages"]) == sorted(wanted)


def test_the_bento_serves_elsewhere_without_the_project(
    bento: Path, exported: Path, photographs: Path, tmp_path: Path
) -> None:
    elsewhere = Path(shutil.copytree(bento, tmp_path / "elsewhere"))
    # PYTHONPATH reads no .pth files, so the editable project is not importable.
    packages = sysconfig.get_paths()["purelib"]
    python = getattr(sys, "_base_executable", sys.executable)
    outside = environment(tmp_path) | {
        "PYTHONPATH": packages,
        "ISOGON_BUNDLE": str(exported),
    }
    absent = subprocess.run(
        [python, "-c", "import serving"], env=outside, cwd=tmp_path, capture_output=True
    )
    assert absent.returncode != 0
    port = free_port()
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [
                *(python, "-m", "bentoml", "serve", str(elsewhere)),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            env=outside,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            photo = (photographs / "coffee.jpg").read_bytes()
            answer = httpx.post(f"{url}/v1/embed", files={"images": photo}, timeout=30)
            assert answer.status_code == 200, (tmp_path / "log").read_text()
            assert answer.json()["width"] == 32
            page = httpx.get(f"{url}/")
            assert page.headers["content-type"].startswith("text/html")
        finally:
            process.terminate()
            process.wait(30)
