"""Float16 and int8 through the whole export: gated, repaired, or rejected."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.progress import Progress

from export import ExportPlan, export_bundle, tolerances, verify
from export.conversion import Trial
from export.deployed import DeployedFunction
from export.gate import Gate
from export.onnx import int8_model
from export.tensorrt.options import EngineOptions
from isogon.bundle import (
    ONNX,
    Bundle,
    onnx_name,
    parity_name,
    parity_reports,
    vouched_artifact,
)
from isogon.errors import UnvouchedArtifactError, UsageError
from isogon.parity import ParityReport
from isogon.runtimes import BatchProfile, EngineStamp, Machine, OnnxRunner

STEM = "backbone.model."
WAITING = "engines/sm90-trt11.4-fp32.engine"  # built, and not yet run


@pytest.fixture
def overflowing(bundle: Bundle) -> Bundle:
    """The same function; within its stem are numbers that float16 cannot hold.

    Each norm takes what is `taken` times as large as before, and gives `given` times.
    """
    arrays = bundle.arrays("model.safetensors")
    for norm, taken, given in (("conv1.1", 1, 1e6), ("conv1.4", 1e6, 1e3), ("bn1", 1e3, 1)):
        arrays[f"{STEM}{norm}.running_mean"] *= np.float32(taken)
        arrays[f"{STEM}{norm}.running_var"] *= np.float32(taken**2)
        arrays[f"{STEM}{norm}.weight"] *= np.float32(given)
        arrays[f"{STEM}{norm}.bias"] *= np.float32(given)
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


def test_a_fine_tuned_int8_enters_beside_the_float32_it_answers_as(
    bundle: Bundle, progress: Progress
) -> None:
    weights = bundle.file("model.safetensors").read_bytes()
    exported = export_bundle(bundle, progress, ExportPlan(lower=("int8",), finetune=20))
    assert exported
    (made,) = exported.converted
    done = made.finetuning
    assert done is not None
    assert done.steps == 20
    assert made.report.figures.min_cosine >= done.before.figures.min_cosine
    again = Bundle.open(bundle.path)
    assert again.file("model.safetensors").read_bytes() == weights
    assert onnx_name("int8") in {each.artifact for each in verify(again, progress).reports}


def test_fine_tuning_without_int8_is_refused() -> None:
    with pytest.raises(UsageError, match="Add int8=True"):
        ExportPlan(lower=("fp16",), finetune=20).require_possible()


def test_an_overflow_in_float16_is_repaired_with_few_nodes(
    overflowing: Bundle, progress: Progress
) -> None:
    exported = export_bundle(overflowing, progress, ExportPlan(lower=("fp16",)))
    assert exported
    (made,) = exported.converted
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


@pytest.mark.slow
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


@pytest.mark.parametrize("damaged", [onnx_name("fp16"), "parity/model.fp16.onnx.json"])
def test_what_is_damaged_is_withdrawn_unless_it_is_made_again(
    bundle: Bundle, progress: Progress, damaged: str
) -> None:
    assert export_bundle(bundle, progress, ExportPlan(lower=("fp16",)))
    (bundle.path / damaged).unlink()
    again = Bundle.open(bundle.path, rewriting=["export"])
    assert export_bundle(again, progress).withdrawn == (onnx_name("fp16"),)
    mended = Bundle.open(bundle.path)
    assert not [name for name in mended.manifest.files if "fp16" in name]
    vouched_artifact(mended)


def test_onnx_is_compared_at_batches_that_no_engine_takes(
    bundle: Bundle, progress: Progress
) -> None:
    plan = ExportPlan(profile=BatchProfile.parse("4:8:16"))
    (report,) = export_bundle(bundle, progress, plan).reports
    assert report.batch_sizes == (1, 2, 7, 8, 16)


@pytest.mark.slow
def test_an_engine_that_waits_stays_with_the_function_it_was_built_for(
    bundle: Bundle, progress: Progress
) -> None:
    with bundle.stage("export") as stage:
        stage.write(WAITING, b"an engine")
    assert export_bundle(bundle, progress).withdrawn == ()
    assert WAITING in Bundle.open(bundle.path)
    assert export_bundle(bundle, progress, ExportPlan(bank=20)).withdrawn == (WAITING,)
    assert WAITING not in Bundle.open(bundle.path)


def test_the_error_of_an_unvouched_engine_names_the_command(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bundle.stage("export") as stage:
        stage.write(WAITING, b"an engine")
    machine = Machine(gpu="sm90", versions={"trt": "11.4"})
    monkeypatch.setattr("isogon.runtimes.stamps.Machine.here", lambda: machine)
    with pytest.raises(UnvouchedArtifactError, match="isogon verify --vouch"):
        vouched_artifact(bundle, WAITING)


def test_a_bundle_is_exported_from_inside_it(
    bundle: Bundle, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.path)
    here = Bundle.open(Path())
    plan = ExportPlan(
        lower=("fp16",), repair=False, tolerances=tolerances(["fp16.min_cosine=1.5"])
    )
    (rejected,) = export_bundle(here, progress, plan).rejected
    folder = bundle.path.with_name(f"{bundle.path.name}.rejected")
    assert rejected.file == folder / "model.fp16.onnx"
    assert not (bundle.path / ".exporting").exists()


@pytest.mark.parametrize(
    "wish", ["build_only", "version_compatible", "hardware_compatible"]
)
def test_what_is_about_engines_is_refused_without_one(wish: str) -> None:
    with pytest.raises(UsageError, match=f"{wish}=True is for engines, and none"):
        ExportPlan(**{wish: True}).require_possible()


def test_compatible_engines_are_refused_of_the_flavour_that_has_none() -> None:
    plan = ExportPlan(engine="tensorrt-rtx", build_only=True, hardware_compatible=True)
    with pytest.raises(UsageError, match='hardware_compatible are for engine="tens'):
        plan.require_possible()


@pytest.mark.skipif(Machine.here().gpu is not None, reason="an engine can be built here")
def test_an_engine_that_cannot_be_built_is_refused_before_any_work() -> None:
    with pytest.raises(UsageError, match="tensorrt"):
        ExportPlan(engine="tensorrt", build_only=True).require_possible()


@pytest.mark.parametrize("text", ["min_cosine=nan", "min_cosine=inf", "min_cosine="])
def test_a_bound_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Expected bounds as NAME=VALUE"):
        tolerances([text])


def test_a_bound_of_a_precision_that_is_not_made_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"is for int8, but only fp32, fp16 is judged here"
    ):
        tolerances(["int8.min_cosine=0.9"], made=("fp32", "fp16"))


def test_bounds_are_set_for_one_precision_or_for_all() -> None:
    changed = tolerances(["int8.min_cosine=0.5", "determinism=0.25"])
    assert changed["int8"].min_cosine == 0.5
    assert changed["fp16"].min_cosine > 0.9
    assert {tolerance.determinism for tolerance in changed.values()} == {0.25}


@pytest.mark.skipif(Machine.here().gpu is not None, reason="engines can run here")
def test_an_engine_that_cannot_run_here_is_built_and_stays_unvouched(
    bundle: Bundle, progress: Progress
) -> None:
    plan = ExportPlan(engine="tensorrt-rtx", lower=("fp16",), build_only=True)
    name = EngineOptions(flavour="tensorrt-rtx", precision="fp16").stamp().name
    with bundle.stage("export") as stage:
        stage.write(name, b"an older engine")
        stage.write(parity_name(name), bundle.record(parity_name(ONNX), ParityReport))
    exported = export_bundle(bundle, progress, plan)
    assert exported.unvouched == [name]
    assert exported.withdrawn == ()
    assert parity_name(name) not in Bundle.open(bundle.path)  # it was about other bytes
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
    """With a lower limit; a larger graph takes the same path."""
    monkeypatch.setattr("export.onnx.saving.LARGEST", 1000)
    assert export_bundle(bundle, progress)
    again = Bundle.open(bundle.path)
    graph = onnx.load(again.file(onnx_name("fp32")), load_external_data=False)
    assert graph.ByteSize() < again.file("onnx/model.onnx.data").stat().st_size
    assert verify(again, progress)


def test_a_repair_that_gives_up_is_a_rejection_and_says_why(
    bundle: Bundle, progress: Progress
) -> None:
    plan = ExportPlan(lower=("fp16",), tolerances=tolerances(["fp16.min_cosine=1.5"]))
    exported = export_bundle(bundle, progress, plan)
    (made,) = exported.converted
    assert made.repair is not None
    assert "gave up" in made.repair.reason
    assert [rejected.report for rejected in exported.rejected] == [made.report]
    kept = onnx.load(exported.rejected[0].file)
    assert kept.graph == made.repair.unrepaired.graph


def test_the_repair_ranks_on_the_images_that_a_conversion_changes_most(
    exported: Path, tmp_path: Path, progress: Progress
) -> None:
    bundle = Bundle.open(exported)
    deployed = DeployedFunction.of(bundle)
    gate = Gate.of(deployed, ExportPlan(lower=("int8",)), progress)
    file = tmp_path / "model.int8.onnx"
    trial = Trial(
        gate=gate, file=file, artifact=onnx_name("int8"), precision="int8", coarse=None
    )
    converted = int8_model(onnx.load(bundle.file(ONNX)), deployed.samples())
    chosen = trial.hardest(converted, 4)
    pixels = deployed.images.pixels
    found = OnnxRunner(file).run_all(pixels, 7).embeddings
    cosines = (found * gate.expected.embeddings).sum(axis=1)
    assert len(chosen) == 4
    assert cosines[chosen].max() <= np.sort(cosines)[4]
