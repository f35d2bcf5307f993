"""OpenVINO runs the same files as ONNX Runtime, after the same parity check."""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

import isogon
from export import ExportPlan, export_bundle
from export.verification import verify
from isogon.bundle import (
    FASTEST,
    GOLDEN,
    ONNX,
    Bundle,
    artifact_names,
    parity_name,
    race,
    vouched_artifact,
)
from isogon.errors import BundleError, UnvouchedArtifactError, UsageError
from isogon.runtimes import How, OnnxRunner, OpenVinoRunner, runtime_for
from serving.served_model import ServedModel
from serving.settings import Settings

pytestmark = pytest.mark.alone
pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
ELSEWHERE = f"{ONNX}@openvino"
SILENT = Progress(disable=True)


@pytest.fixture(scope="module")
def vouched(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose float32 file has passed parity in OpenVINO too."""
    path = tmp_path_factory.mktemp("openvino") / "copy.isogon"
    shutil.copytree(exported, path)
    bundle = Bundle.open(path, rewriting=["export"])
    found = export_bundle(bundle, SILENT, ExportPlan(runtimes=("openvino",)))
    assert [report.artifact for report in found.reports] == [ONNX, ELSEWHERE]
    return path


def test_both_runtimes_answer_alike_at_any_batch_and_from_several_threads(
    exported: Path,
) -> None:
    bundle = Bundle.open(exported)
    pixels = bundle.arrays(GOLDEN)["pixels"]
    ours, theirs = (
        OpenVinoRunner(bundle.file(ONNX), threads=1),
        OnnxRunner(bundle.file(ONNX)),
    )
    assert ours.preprocessing == theirs.preprocessing
    assert ours.metadata == theirs.metadata
    assert ours.name.startswith("openvino 20") and "CPU f32" in ours.name
    batches = [np.roll(pixels, turn, axis=0)[: turn + 1] for turn in range(len(pixels))]
    with ThreadPoolExecutor(4) as pool:
        for batch, found in zip(batches, pool.map(ours.run, batches), strict=True):
            expected = theirs.run(batch)
            assert np.abs(found.embeddings - expected.embeddings).max() < 1e-5
            assert np.abs(found.ood_scores - expected.ood_scores).max() < 1e-5


def test_a_pair_of_file_and_runtime_is_an_artifact(vouched: Path) -> None:
    bundle = Bundle.open(vouched)
    assert artifact_names(bundle) == (ONNX, ELSEWHERE)
    usual, other = (vouched_artifact(bundle, name) for name in (ONNX, ELSEWHERE))
    assert other.path == usual.path and other.fingerprint == usual.fingerprint
    assert other.report.candidate.startswith("openvino ")
    assert [report.artifact for report in verify(bundle, SILENT).reports] == [
        ONNX,
        ELSEWHERE,
    ]


def test_it_serves_and_embeds(vouched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOGON_ARTIFACT", ELSEWHERE)
    served = ServedModel.load(vouched, Settings(bundle=vouched))  # type: ignore[arg-type]
    assert served.runner.name.startswith("openvino ")
    image = Bundle.open(vouched).arrays(GOLDEN)["pixels"][0]
    answers = [isogon.load(vouched, artifact=name) for name in (ONNX, ELSEWHERE)]
    first, second = (model.embed([image]).embeddings for model in answers)
    assert np.abs(first - second).max() < 1e-5


def test_the_fastest_artifact_is_found_and_logged(
    vouched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = race(Bundle.open(vouched), How(threads=1))
    names = [one.artifact.name for one in found.timed]
    assert sorted(names) == [ONNX, ELSEWHERE] and not found.passed_over
    assert found.timed[0].milliseconds <= found.timed[1].milliseconds
    assert str(found).startswith(names[0])
    monkeypatch.setenv("ISOGON_ARTIFACT", FASTEST)
    served = ServedModel.load(vouched, Settings(bundle=vouched))  # type: ignore[arg-type]
    assert served.artifact.name in names


def test_without_the_package_the_others_go_on(
    vouched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    bundle = Bundle.open(vouched)
    found = race(bundle, How(threads=1))
    assert [one.artifact.name for one in found.timed] == [ONNX]
    assert "pip install openvino" in found.passed_over[ELSEWHERE]
    with pytest.raises(UsageError, match="needs the package `openvino`"):
        OpenVinoRunner(bundle.file(ONNX))
    with pytest.raises(UsageError, match="cannot be checked here"):
        ExportPlan(runtimes=("openvino",)).require_possible()


def test_what_vouches_for_other_bytes_vouches_for_nothing(vouched: Path) -> None:
    with Bundle.open(vouched).stage("export") as stage:
        path = Bundle.open(vouched).file(parity_name(ELSEWHERE))
        digest = Bundle.open(vouched).manifest.files[ONNX].sha256
        stage.write(parity_name(ELSEWHERE), path.read_text().replace(digest, "0" * 64))
    with pytest.raises(UnvouchedArtifactError, match="vouches for 000000000000"):
        vouched_artifact(Bundle.open(vouched), ELSEWHERE)
    found = export_bundle(Bundle.open(vouched, rewriting=["export"]), SILENT)
    assert found.withdrawn == (ELSEWHERE,)
    assert artifact_names(Bundle.open(vouched)) == (ONNX,)
    with pytest.raises(UnvouchedArtifactError, match="isogon export --runtime openvino"):
        vouched_artifact(Bundle.open(vouched), ELSEWHERE)


def test_what_is_not_a_graph_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nope")
    with pytest.raises(BundleError, match="does not load in OpenVINO"):
        OpenVinoRunner(path)
    with pytest.raises(UsageError, match="Known runtimes: onnxruntime, openvino"):
        runtime_for(path, "tvm")
