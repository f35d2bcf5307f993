"""`isogon serve` as a person starts it, and bundles that differ."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import onnx
import pytest

from bundle import ONNX, Bundle, ParityReport, parity_name
from serving.process import free_port, wait_until_ready

ROOT = Path(__file__).parents[2]


@dataclass
class Serving:
    """A running `isogon serve`."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    log: Path

    @property
    def port(self) -> int:
        port = self.client.base_url.port
        assert port is not None
        return port


Serve = Callable[..., AbstractContextManager[Serving]]


@pytest.fixture
def isogon_serve(tmp_path: Path) -> Serve:
    """Start `isogon serve ARGUMENTS`, or `bentoml serve`; end it, if the test has not."""

    @contextmanager
    def serve(*arguments: object, supervised: bool = False) -> Iterator[Serving]:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        log = tmp_path / f"{port}.log"
        given = tuple(map(str, arguments))
        command = (sys.executable, "-m", "isogon", "serve", *given)
        environment = os.environ | {"BENTOML_DO_NOT_TRACK": "True"}
        if supervised:
            command = (sys.executable, "-m", "bentoml", "serve", "serving.service:Isogon")
            environment["ISOGON_BUNDLE"] = os.pathsep.join(given)
        with (
            log.open("wb") as output,
            subprocess.Popen(
                (*command, "--port", str(port)),
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=environment,
            ) as process,
            httpx.Client(base_url=url, timeout=60) as client,
        ):
            try:
                wait_until_ready(process, url, log)
                yield Serving(process, client, log)
            finally:
                client.close()
                process.terminate()
                process.wait(60)

    return serve


@pytest.fixture
def another(exported: Path, tmp_path: Path) -> Path:
    """A bundle that answers as `exported` does, under another fingerprint."""
    path = Path(shutil.copytree(exported, tmp_path / "another.isogon"))
    bundle = Bundle.open(path)
    graph = onnx.load(bundle.file(ONNX))
    graph.metadata_props.add(key="tests.another", value="yes")
    report = bundle.record(parity_name(ONNX), ParityReport)
    with bundle.stage("export") as stage:
        stage.write(ONNX, graph.SerializeToString())
        vouching = report.model_copy(update={"sha256": stage.sha256(ONNX)})
        stage.write(parity_name(ONNX), vouching)
    return path
