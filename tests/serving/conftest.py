"""`isogon serve` as a user starts it, and bundles that differ."""

import json
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

from isogon.bundle import ONNX, Bundle, parity_name
from isogon.bundle.evaluation import EVALUATION, OVERLAP, Baseline, Estimate, Evaluation
from isogon.parity import ParityReport
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
            command = (
                sys.executable,
                "-m",
                "bentoml",
                "serve",
                "serving.bento.service:IsogonService",
            )
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


Judged = Callable[[str, float | None], Path]


@pytest.fixture
def judged(exported: Path, tmp_path: Path) -> Judged:
    """Copies of the bundle by name, with this gain of overlap@10 by distilling.

    All other figures are the bundle's own, and the network before training shares them.
    None makes the evaluation one of the first version, which did not measure that network.
    """

    def make(name: str, gain: float | None) -> Path:
        path = Path(shutil.copytree(exported, tmp_path / f"{name}.isogon"))
        bundle = Bundle.open(path)
        with bundle.stage("evaluate") as stage:
            found = bundle.record(EVALUATION, Evaluation)
            stage.write(EVALUATION, _older(found) if gain is None else _with(gain, found))
        return path

    return make


def _with(gain: float, found: Evaluation) -> Evaluation:
    assert found.fidelity is not None
    overlap = found.fidelity.neighbour_overlap - gain
    before = Baseline(
        fidelity=found.fidelity.model_copy(update={"neighbour_overlap": overlap}),
        quality=found.student,
    )
    ((name, seen),) = found.unfamiliar.items()
    return found.model_copy(
        update={
            "unfamiliar": {name: seen.model_copy(update={"flagged": 8})},
            "undistilled": before,
            "start": before,
            "pretrained": True,
            "gains": {OVERLAP: Estimate(value=gain, low=gain - 0.05, high=gain + 0.05)},
        }
    )


def _older(found: Evaluation) -> str:
    document = found.model_dump(mode="json")
    for key in ("undistilled", "start", "pretrained", "gains", "classes", "cost"):
        del document[key]
    for one in document["unfamiliar"].values():
        del one["flagged"]
    for key in ("steps", "kept_step", "validated"):
        del document["training"][key]
    return json.dumps(document)


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
