"""Float16 and int8 through the whole export: gated, repaired, or rejected."""

import onnx
import pytest
from rich.progress import Progress

from bundle import Bundle, EngineStamp, Machine, onnx_name, parity_reports, vouched_artifact
from export import ExportPlan, export_bundle, tolerances, verify

STEM, NEXT = "backbone.model.conv1.1", "backbone.model.conv1.3"


@pytest.fixture
def overflowing(bundle: Bundle) -> Bundle:
    """The same function, whose stem passes on numbers that float16 cannot hold."""
    arrays = bundle.arrays("model.safetensors")
    for name in (f"{STEM}.weight", f"{STEM}.bias"):
        arrays[name] = arrays[name] * 1e5
    arrays[f"{NEXT}.weight"] = arrays[f"{NEXT}.weight"] / 1e5
    with bundle.stage("distill") as stage:
        stage.write_arrays("model.safetensors", arrays)
    return Bundle.open(bundle.path)


def test_every_precision_enters_with_its_own_calibration(
    bundle: Bundle, progress: Progress
) -> None:
    exported = export_bundle(bundle, progress, ExportPlan(lower=("fp16", "int8")))
    assert exported
    again = Bundle.open(bundle.path)
    artifacts = [vouched_artifact(again, onnx_name(p)) for p in ("fp32", "fp16", "int8")]
    assert len({artifact.fingerprint for artifact in artifacts}) == 3
    assert len({artifact.calibration.scores for artifact in artifacts}) == 3
    assert len({artifact.report.function for artifact in artifacts}) == 1
    verified = {report.artifact for report in verify(again, progress).reports}
    assert verified == {artifact.name for artifact in artifacts}
    page = again.file("report.html").read_text()
    assert all(f"<h3>{artifact.name}</h3>" in page for artifact in artifacts)


def test_an_overflow_in_float16_is_repaired_with_few_nodes(
    overflowing: Bundle, progress: Progress
) -> None:
    exported = export_bundle(overflowing, progress, ExportPlan(lower=("fp16",)))
    assert exported
    (made,) = exported.lowered
    assert made.repair is not None
    assert 0 < len(made.repair.keep) <= 8
    assert any("conv1" in node.module for node in made.repair.harmful)
    assert made.time_cost is not None
    vouched_artifact(Bundle.open(overflowing.path), onnx_name("fp16"))


def test_an_overflow_in_float16_is_rejected_without_repair(
    overflowing: Bundle, progress: Progress
) -> None:
    plan = ExportPlan(lower=("fp16",), repair=False)
    exported = export_bundle(overflowing, progress, plan)
    (rejected,) = exported.rejected
    assert not rejected.report
    assert "every tensor as stored" in rejected.report.candidate
    assert rejected.file.exists()
    again = Bundle.open(overflowing.path)
    assert onnx_name("fp16") not in again
    assert [report.artifact for report in parity_reports(again)] == [onnx_name("fp32")]


def test_artifacts_of_another_function_are_withdrawn(
    bundle: Bundle, progress: Progress
) -> None:
    assert export_bundle(bundle, progress, ExportPlan(lower=("fp16",)))
    exported = export_bundle(bundle, progress, ExportPlan(bank=20))
    assert exported.withdrawn == (onnx_name("fp16"),)
    again = Bundle.open(bundle.path)
    assert onnx_name("fp16") not in again
    assert onnx_name("fp16") not in again.file("report.html").read_text()


def test_artifacts_of_the_same_function_stay(bundle: Bundle, progress: Progress) -> None:
    assert export_bundle(bundle, progress, ExportPlan(lower=("fp16",)))
    assert export_bundle(bundle, progress).withdrawn == ()
    vouched_artifact(Bundle.open(bundle.path), onnx_name("fp16"))


def test_bounds_are_set_for_one_precision_or_for_all() -> None:
    changed = tolerances(["int8.min_cosine=0.5", "determinism=0.25"])
    assert changed["int8"].min_cosine == 0.5
    assert changed["fp16"].min_cosine > 0.9
    assert {tolerance.determinism for tolerance in changed.values()} == {0.25}


@pytest.mark.skipif(Machine.here().gpu is not None, reason="engines can run here")
def test_an_engine_that_cannot_run_here_is_built_and_vouched_for_by_nobody(
    bundle: Bundle, progress: Progress
) -> None:
    plan = ExportPlan(engine="tensorrt-rtx", lower=("fp16",), build_only=True)
    exported = export_bundle(bundle, progress, plan)
    (name,) = exported.unvouched
    stamp = EngineStamp.from_name(name)
    assert (stamp.flavour, stamp.precision) == ("rtx", "fp16")
    again = Bundle.open(bundle.path)
    assert again.file(name).stat().st_size > 10_000
    verified = verify(again, progress, vouch=True)
    assert verified
    assert name in verified.skipped


def test_a_graph_of_more_than_two_gigabytes_keeps_its_weights_beside_it(
    bundle: Bundle, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limit lowered: what is larger takes the same way."""
    monkeypatch.setattr("export.onnx.metadata.LARGEST", 1000)
    assert export_bundle(bundle, progress)
    again = Bundle.open(bundle.path)
    graph = onnx.load(again.file(onnx_name("fp32")), load_external_data=False)
    assert graph.ByteSize() < again.file("onnx/model.onnx.data").stat().st_size
    assert verify(again, progress)
