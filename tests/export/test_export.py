"""The gate: what may enter a bundle, and everything that may not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console
from rich.progress import Progress

from export import (
    ExportPlan,
    ParityFailedError,
    TorchRunner,
    calibrate,
    detection,
    export_bundle,
    graph_from_bundle,
    tolerances,
    verify,
)
from export.parity import ParityImages
from isogon.bundle import (
    GOLDEN,
    ONNX,
    Bundle,
    Metadata,
    Thumbnails,
    onnx_name,
    parity_name,
    vouched_artifact,
)
from isogon.errors import CheckFailedError, UsageError
from isogon.ood import DetectorSpec
from isogon.parity import TOLERANCES, ParityReport
from isogon.runtimes import OnnxRunner, Precision


@pytest.fixture
def images(bundle: Bundle) -> ParityImages:
    return ParityImages.of(bundle)


def test_the_graph_takes_uint8_and_a_batch_of_any_size(bundle: Bundle) -> None:
    graph = onnx.load(bundle.file(ONNX)).graph
    (images,) = graph.input
    assert images.name == "images"
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    batch, *rest = images.type.tensor_type.shape.dim
    assert batch.dim_param
    assert [axis.dim_value for axis in rest] == [32, 32, 3]
    assert [output.name for output in graph.output] == ["embedding", "ood_score"]


def test_the_file_carries_what_makes_it_stand_alone(bundle: Bundle) -> None:
    held = {entry.key: entry.value for entry in onnx.load(bundle.file(ONNX)).metadata_props}
    artifact = vouched_artifact(bundle)
    metadata = Metadata.from_properties(held, "here")
    assert metadata.preprocessing == bundle.manifest.preprocessing
    assert metadata.calibration == artifact.calibration
    assert metadata.function == artifact.report.function


@pytest.mark.parametrize("batch", [1, 2, 7, 33])
def test_onnx_equals_eager_torch_at_every_batch_size(
    bundle: Bundle, images: ParityImages, batch: int
) -> None:
    pixels = images.pixels[:batch]
    ours = OnnxRunner(bundle.file(ONNX)).run(pixels)
    torchs = TorchRunner(graph_from_bundle(bundle)).run(pixels)
    assert np.abs(ours.embeddings - torchs.embeddings).max() < 1e-5
    assert np.allclose(np.linalg.norm(ours.embeddings, axis=1), 1, atol=1e-6)
    assert np.allclose(ours.ood_scores, torchs.ood_scores, atol=1e-5)


def test_the_report_says_what_was_compared_with_what(bundle: Bundle) -> None:
    report = bundle.record(parity_name(ONNX), ParityReport)
    held_out = bundle.arrays("held_out.safetensors")
    compared = len(held_out["familiar"]) + len(held_out["unfamiliar"])
    assert report
    assert report.batch_sizes == (1, 2, 7, 8, 32)
    assert report.figures.images == 5 * compared
    assert "eager float32" in report.reference
    assert report.sha256 == bundle.manifest.files[ONNX].sha256
    assert report.calibration is not None
    assert len(report.calibration.scores) == len(held_out["familiar"])


def test_calibration_is_of_the_artifacts_own_scores(bundle: Bundle) -> None:
    artifact = vouched_artifact(bundle)
    familiar = bundle.arrays("held_out.safetensors")["familiar"]
    scores = OnnxRunner(artifact.path).run_all(familiar, 1).ood_scores
    assert np.sort(scores).tolist() == list(artifact.calibration.scores)


def test_golden_images_are_real_and_of_both_kinds(
    bundle: Bundle, images: ParityImages
) -> None:
    golden = bundle.arrays(GOLDEN)
    real = {pixels.tobytes() for pixels in images.pixels}
    assert {pixels.tobytes() for pixels in golden["pixels"]} <= real
    flagged = vouched_artifact(bundle).calibration.is_ood(golden["ood_scores"])
    assert flagged.any()
    assert not flagged.all()


def test_an_artifact_that_fails_does_not_enter_the_bundle(
    bundle: Bundle, progress: Progress
) -> None:
    before = (bundle.path / "manifest.json").read_bytes()
    impossible = ExportPlan(tolerances=tolerances(["min_cosine=1.1"]))
    with pytest.raises(ParityFailedError, match="did not enter the bundle") as caught:
        export_bundle(bundle, progress, impossible)
    assert "min_cosine" in str(caught.value)
    assert not caught.value.report
    assert (bundle.path / "manifest.json").read_bytes() == before
    assert not list(bundle.path.rglob("*.pending"))
    vouched_artifact(Bundle.open(bundle.path))


def test_exporting_again_replaces_the_artifact_whole(
    bundle: Bundle, progress: Progress
) -> None:
    assert export_bundle(bundle, progress)
    vouched_artifact(Bundle.open(bundle.path))


def test_more_images_are_compared_on_request(bundle: Bundle, progress: Progress) -> None:
    extra = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    before = bundle.record(parity_name(ONNX), ParityReport).figures.images
    (verified,) = verify(bundle, progress, extra=extra).reports
    assert verified.figures.images == before + 25
    (report,) = export_bundle(bundle, progress, ExportPlan(extra=extra)).reports
    assert report.figures.images == before + 25


def test_verify_repeats_the_claim(bundle: Bundle, progress: Progress) -> None:
    assert verify(bundle, progress)


def test_verify_finds_weights_that_are_not_the_artifacts(
    bundle: Bundle, progress: Progress
) -> None:
    """Every hash is right, as after an attack or a mix-up; parity itself must notice."""
    arrays = bundle.arrays("model.safetensors")
    arrays["embedding.weight"] = -arrays["embedding.weight"]
    with bundle.stage("distill") as stage:
        stage.write_arrays("model.safetensors", arrays)
    with pytest.raises(ParityFailedError, match="is not equal to torch"):
        verify(Bundle.open(bundle.path), progress).require()


def test_verify_finds_a_calibration_that_is_not_the_artifacts(
    bundle: Bundle, progress: Progress
) -> None:
    report = bundle.record(parity_name(ONNX), ParityReport)
    assert report.calibration is not None
    flagging = report.calibration.model_copy(update={"scores": (-1.0,) * 36})
    with bundle.stage("export") as stage:
        stage.write(parity_name(ONNX), report.model_copy(update={"calibration": flagging}))
    with pytest.raises(CheckFailedError, match="the calibration of"):
        verify(Bundle.open(bundle.path), progress).require()


def test_calibrating_on_site_makes_the_sites_images_familiar(
    bundle: Bundle, photographs: Path, tmp_path: Path, progress: Progress
) -> None:
    from PIL import Image

    site = tmp_path / "site"
    site.mkdir()
    for path in photographs.glob("*.jpg"):
        image = Image.open(path)
        for number in range(5):
            box = (number * 7, number * 5, image.width - 30 + number * 3, image.height - 20)
            image.crop(box).save(site / f"{path.stem}-{number}.jpg")
    pixels = bundle.arrays("held_out.safetensors")["unfamiliar"]

    def flagged() -> float:
        artifact = vouched_artifact(Bundle.open(bundle.path))
        scores = OnnxRunner(artifact.path).run(pixels).ood_scores
        return float(artifact.calibration.is_ood(scores).mean())

    before = flagged()
    assert calibrate(bundle, site, progress)
    assert flagged() < before
    again = Bundle.open(bundle.path)
    assert "ood/reference.safetensors" in again  # the training's detector stays
    assert again.manifest.files["ood/site/detector.json"].stage == "calibrate"
    assert verify(again, progress)
    shown = Thumbnails.in_force(again)
    assert shown is not None
    assert shown.labels is None  # the site's images, which are in no classes
    bank = again.arrays("ood/site/reference.safetensors")["bank"]
    assert np.allclose(shown.embeddings, bank, atol=1e-6)
    spec = DetectorSpec(name="mahalanobis", alpha=0.1)
    assert calibrate(again, site, progress, spec=spec)
    assert vouched_artifact(Bundle.open(bundle.path)).calibration.alpha == 0.1


def test_calibrating_makes_the_lower_precisions_again_and_says_what_is_flagged(
    bundle: Bundle, digits: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bound = {"fp16": TOLERANCES["fp16"].model_copy(update={"min_cosine": 0.98})}
    loud = Progress(console=Console(stderr=True, width=200), disable=True)
    plan = ExportPlan(lower=("fp16",), tolerances=dict(TOLERANCES) | bound)
    assert export_bundle(bundle, loud, plan)
    made = calibrate(bundle, digits, loud, spec=DetectorSpec(name="knn", alpha=0.1))
    assert (made.withdrawn, made.damaged) == ((), ())
    again = Bundle.open(bundle.path)
    vouched = vouched_artifact(again, onnx_name("fp16"))
    assert vouched.calibration.alpha == 0.1
    assert vouched.report.tolerance.min_cosine == 0.98
    assert verify(again, loud)
    assert "among its training images" in capsys.readouterr().err

    kept, named = (
        detection(again, loud),
        detection(again, loud, unfamiliar=str(photographs)),
    )
    assert kept is not None and named is not None
    assert (kept.where, kept.images, kept.alpha) == ("the bundle", 12, 0.1)
    pixels = again.arrays("held_out.safetensors")["unfamiliar"]
    float32 = vouched_artifact(again)
    scores = OnnxRunner(float32.path).run(pixels).ood_scores
    assert kept.flagged == named.flagged == float32.calibration.is_ood(scores).sum()


@pytest.mark.parametrize(
    "name",
    ["vim", *(pytest.param(n, marks=pytest.mark.slow) for n in ("gen", "she", "nnguide"))],
)
def test_a_detector_with_a_probe_goes_through_calibration_and_parity(
    bundle: Bundle, digits: Path, progress: Progress, name: str
) -> None:
    spec = DetectorSpec.model_validate({"name": name, "alpha": 0.1})
    assert calibrate(bundle, digits, progress, spec=spec)
    assert verify(Bundle.open(bundle.path), progress)
    stored = Bundle.open(bundle.path).arrays("ood/site/reference.safetensors")
    assert stored["probe.weight"].shape == (10, 32)


def test_too_small_a_site_is_refused_and_nothing_changes(
    bundle: Bundle, photographs: Path, progress: Progress
) -> None:
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match="needs 19 for calibration"):
        calibrate(bundle, photographs, progress)
    assert (bundle.path / "manifest.json").read_bytes() == before


def impossible(precision: Precision) -> ExportPlan:
    """A file that cannot pass, and the engine that would be made from it."""
    return ExportPlan(
        lower=(precision,),
        engine="tensorrt-rtx",
        build_only=True,
        repair=False,
        tolerances=tolerances([f"{precision}.min_cosine=1.1"]),
    )


@pytest.mark.slow
def test_an_int8_engine_is_not_built_from_a_file_that_did_not_pass(
    bundle: Bundle, progress: Progress
) -> None:
    exported = export_bundle(bundle, progress, impossible("int8"))
    assert [failed.artifact for failed in exported.failed] == ["int8 engine"]
    assert "int8 ONNX file that it comes from" in str(exported.failed[0].error)
    assert not exported.unvouched


@pytest.mark.slow
def test_what_cannot_be_made_costs_nothing_that_was(
    bundle: Bundle, progress: Progress
) -> None:
    exported = export_bundle(bundle, progress, ExportPlan(lower=("fp16",)))
    assert exported
    exported = export_bundle(bundle, progress, impossible("fp16"))
    assert not exported
    assert [report.artifact for report in exported.reports] == [ONNX]
    (rejected,) = exported.rejected
    assert "onnx/model.fp16.onnx exported before stays in the bundle" in rejected.advice
    assert f"isogon export {bundle.path} --fp16 --bound NAME=VALUE" in rejected.advice
    (failed,) = exported.failed
    assert failed.artifact == "fp16 engine"
    assert "the fp16 ONNX file that it comes from did not pass" in str(failed.error)
    with pytest.raises(ParityFailedError):
        exported.require()
    reopened = Bundle.open(bundle.path)
    assert vouched_artifact(reopened, ONNX)
    assert vouched_artifact(reopened, "onnx/model.fp16.onnx")
