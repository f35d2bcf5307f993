"""Faults of artifacts, planted one by one: each must be caught."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from PIL import Image
from rich.progress import Progress

from export import (
    ExportPlan,
    ParityFailedError,
    TorchRunner,
    export_bundle,
    graph_from_bundle,
    tolerances,
)
from export.parity import BATCH_SIZES, ParityImages, batch_sizes, measure, show_parity
from isogon.bundle import ONNX, Bundle, parity_name, parity_reports, parity_run_name
from isogon.errors import BundleError
from isogon.images import ImageFolder
from isogon.parity import TOLERANCES, Claim, ParityReport, ParityRun
from isogon.runtimes import BatchProfile, OnnxRunner, Outputs, Pixels, Runner

CLAIM = Claim(
    artifact=ONNX, sha256="0" * 64, precision="fp32", reference="torch", function="1" * 64
)


@pytest.fixture(scope="module")
def original(exported: Path) -> Bundle:
    return Bundle.open(exported)


@pytest.fixture(scope="module")
def images(original: Bundle) -> ParityImages:
    return ParityImages.of(original)


@pytest.fixture(scope="module")
def reference(original: Bundle) -> TorchRunner:
    return TorchRunner(graph_from_bundle(original))


@pytest.fixture(scope="module")
def expected(reference: TorchRunner, images: ParityImages) -> Outputs:
    return reference.run_all(images.pixels, 32)


@pytest.fixture
def judged(
    expected: Outputs, images: ParityImages, progress: Progress
) -> Callable[[Runner], ParityReport]:
    """Compare a runner with the reference at every batch size."""

    def judge(candidate: Runner) -> ParityReport:
        return measure(expected, candidate, images, progress, claim=CLAIM).judge()

    return judge


# Files: the ONNX artifact itself, changed by one thing.


def weight(graph: onnx.GraphProto, name: str, change: Callable[[np.ndarray], None]) -> None:
    """Change one initializer in place."""
    (tensor,) = (one for one in graph.initializer if one.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))


def a_perturbed_weight(graph: onnx.GraphProto) -> None:
    def change(values: np.ndarray) -> None:
        values[3, 5] += 0.01

    weight(graph, "student.embedding.weight", change)


def a_nan_in_the_embedding_layer(graph: onnx.GraphProto) -> None:
    def change(values: np.ndarray) -> None:
        values[0, 0] = np.nan

    weight(graph, "student.embedding.weight", change)


def a_nan_in_the_first_convolution(graph: onnx.GraphProto) -> None:
    def change(values: np.ndarray) -> None:
        values[0, 0, 0, 0] = np.nan

    weight(graph, "student.backbone.model.conv1.0.weight", change)


def a_swapped_channel(graph: onnx.GraphProto) -> None:
    """The file takes BGR for RGB."""
    order = onnx.numpy_helper.from_array(np.array([2, 1, 0]), "order")
    swap = onnx.helper.make_node("Gather", ["images", "order"], ["swapped"], axis=3)
    for node in graph.node:
        node.input[:] = ["swapped" if name == "images" else name for name in node.input]
    graph.initializer.append(order)
    graph.node.insert(0, swap)


def a_dropped_normalisation(graph: onnx.GraphProto) -> None:
    """The network sees pixels in [0, 1], without mean and standard deviation."""
    normalised, scaled = "div_1", "div"
    users = [node for node in graph.node if normalised in node.input]
    assert users
    for node in users:
        node.input[:] = [scaled if name == normalised else name for name in node.input]


def a_dropped_unit_norm(graph: onnx.GraphProto) -> None:
    """The embedding comes out with the length the last layer gave it."""
    (last,) = (node for node in graph.node if "embedding" in node.output)
    raw = last.input[0]
    place = list(graph.node).index(last)
    graph.node.remove(last)
    graph.node.insert(place, onnx.helper.make_node("Identity", [raw], ["embedding"]))


def a_bank_of_another_detector(graph: onnx.GraphProto) -> None:
    def change(values: np.ndarray) -> None:
        values[:] = values[:, ::-1] / 2

    weight(graph, "permute_4", change)


@pytest.mark.parametrize(
    ("plant", "breaks"),
    [
        (a_perturbed_weight, "max_abs_error"),
        (a_swapped_channel, "min_cosine"),
        (a_dropped_normalisation, "min_cosine"),
        (a_dropped_unit_norm, "max_norm_error"),
        (a_nan_in_the_embedding_layer, "min_cosine nan"),
        (a_nan_in_the_first_convolution, "max_abs_error"),
        (a_bank_of_another_detector, "max_score_error"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_error_planted_in_the_file_is_caught(
    original: Bundle,
    judged: Callable[[Runner], ParityReport],
    tmp_path: Path,
    plant: Callable[[onnx.GraphProto], None],
    breaks: str,
) -> None:
    model = onnx.load(original.file(ONNX))
    plant(model.graph)
    path = tmp_path / "planted.onnx"
    onnx.save(model, path)
    report = judged(OnnxRunner(path))
    assert breaks in "\n".join(report.failures)
    assert not report


def test_the_file_as_it_was_exported_passes(
    original: Bundle, judged: Callable[[Runner], ParityReport]
) -> None:
    report = judged(OnnxRunner(original.file(ONNX)))
    assert report
    assert report.failures == ()


def test_a_wrong_resize_is_caught(
    original: Bundle,
    reference: TorchRunner,
    digits: Path,
    progress: Progress,
) -> None:
    """The artifact is right; its pixels were resized in another way."""
    folder = ImageFolder.list(digits)
    crop = original.manifest.preprocessing
    chosen = range(0, 240, 4)
    right = np.stack([crop.pixels(folder.image(index)) for index in chosen])
    candidate = OnnxRunner(original.file(ONNX))
    expected = reference.run_all(right, 32)

    def report(pixels: Pixels) -> ParityReport:
        given = ParityImages(pixels=pixels, familiar=len(pixels), alpha=0.05)
        return measure(expected, candidate, given, progress, claim=CLAIM).judge()

    assert report(right)
    for resampling in (Image.Resampling.NEAREST, Image.Resampling.BILINEAR):
        wrong = np.stack(
            [
                np.asarray(
                    folder.image(index)
                    .convert("RGB")
                    .resize((crop.width, crop.height), resampling)
                )
                for index in chosen
            ]
        )
        assert wrong.shape == right.shape
        assert "min_cosine" in "\n".join(report(wrong).failures)


# Runners: what a file alone cannot do.


class Planted(Runner):
    """The reference with an error of our choice."""

    name = "planted"

    def __init__(self, reference: Runner, plant: Callable[[Outputs], Outputs]) -> None:
        self._reference = reference
        self._plant = plant

    def run(self, pixels: Pixels) -> Outputs:
        return self._plant(self._reference.run(pixels))


def with_nan(outputs: Outputs) -> Outputs:
    embeddings = outputs.embeddings.copy()
    embeddings[0, 0] = np.nan
    return replace(outputs, embeddings=embeddings)


def with_nan_score(outputs: Outputs) -> Outputs:
    scores = outputs.ood_scores.copy()
    scores[-1] = np.nan
    return replace(outputs, ood_scores=scores)


def with_noise(outputs: Outputs) -> Outputs:
    noise = np.random.default_rng(0).normal(size=outputs.embeddings.shape) * 1e-2
    return replace(outputs, embeddings=(outputs.embeddings + noise).astype(np.float32))


def with_shuffled_scores(outputs: Outputs) -> Outputs:
    return replace(outputs, ood_scores=outputs.ood_scores[::-1].copy())


def with_constant_scores(outputs: Outputs) -> Outputs:
    return replace(outputs, ood_scores=np.zeros_like(outputs.ood_scores))


def with_swapped_coordinates(outputs: Outputs) -> Outputs:
    swapped = outputs.embeddings.copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    return replace(outputs, embeddings=swapped)


# These stay within 1e-4 of the reference, which by itself would pass.


def leaking_between_images(outputs: Outputs) -> Outputs:
    """The last image of a batch changes the outputs of all."""
    leak = 2e-5 * outputs.embeddings[-1] / np.abs(outputs.embeddings[-1]).max()
    return replace(outputs, embeddings=outputs.embeddings + leak)


def depending_on_the_position(outputs: Outputs) -> Outputs:
    shift = np.linspace(0, 5e-5, len(outputs), dtype=np.float32)
    return replace(outputs, embeddings=outputs.embeddings + shift[:, None])


def differing_from_run_to_run() -> Callable[[Outputs], Outputs]:
    seeds = count()

    def plant(outputs: Outputs) -> Outputs:
        noise = np.random.default_rng(next(seeds)).random(outputs.embeddings.shape)
        noisy = (outputs.embeddings + 2e-5 * noise).astype(np.float32)
        return replace(outputs, embeddings=noisy)

    return plant


@pytest.mark.parametrize(
    ("plant", "breaks"),
    [
        (with_nan, "max_abs_error nan"),
        (with_nan_score, "decision_agreement nan"),
        (with_noise, "max_abs_error"),
        (with_shuffled_scores, "decision_agreement"),
        (with_shuffled_scores, "score_rank_correlation"),
        (with_constant_scores, "max_score_error"),
        (with_constant_scores, "score_rank_correlation nan"),
        (with_swapped_coordinates, "min_cosine"),
        (differing_from_run_to_run(), "determinism"),
    ],
)
def test_a_runner_that_answers_wrongly_is_caught(
    reference: TorchRunner,
    judged: Callable[[Runner], ParityReport],
    plant: Callable[[Outputs], Outputs],
    breaks: str,
) -> None:
    report = judged(Planted(reference, plant))
    assert breaks in "\n".join(report.failures)
    assert not report


@pytest.mark.parametrize("plant", [leaking_between_images, depending_on_the_position])
def test_answers_that_depend_on_the_batch_are_caught_though_near_the_reference(
    reference: TorchRunner,
    judged: Callable[[Runner], ParityReport],
    plant: Callable[[Outputs], Outputs],
) -> None:
    (failure,) = judged(Planted(reference, plant)).failures
    assert failure.startswith("batch_invariance")


# The run: which batches, and what remains of them.


class Counting(Runner):
    """Counts the images of each batch."""

    name = "counting"

    def __init__(self, reference: Runner) -> None:
        self._reference = reference
        self.sizes: list[int] = []

    def run(self, pixels: Pixels) -> Outputs:
        self.sizes.append(len(pixels))
        return self._reference.run(pixels)


def test_every_batch_is_whole_even_one_larger_than_the_images_are_many(
    reference: TorchRunner, expected: Outputs, images: ParityImages, progress: Progress
) -> None:
    candidate = Counting(reference)
    run = measure(expected, candidate, images, progress, (7, 100), claim=CLAIM)
    assert set(candidate.sizes) == {7, 100}
    assert candidate.sizes.count(100) == 3  # the images, again, and one repeated
    assert list(run.answers) == [7, 100]
    for outputs in (*run.answers.values(), run.again):
        assert len(outputs) == len(images.pixels) < 100
    assert len(run.repeated) == 100
    assert run.judge()


@pytest.mark.parametrize(
    ("profile", "sizes"),
    [
        ("1:8:32", (1, 2, 7, 8, 32)),
        ("1:1:1", (1,)),
        ("1:1:2", (1, 2)),
        ("1:4:4", (1, 2, 3, 4)),
        ("1:7:64", (1, 2, 7, 64)),
        ("4:8:16", (4, 7, 8, 16)),
        ("8:16:32", (8, 9, 16, 32)),
        ("8:8:8", (8,)),
    ],
)
def test_batch_sizes_are_of_every_kind_the_profile_allows(
    profile: str, sizes: tuple[int, ...]
) -> None:
    assert batch_sizes(BatchProfile.parse(profile)) == sizes


def test_export_saves_the_run_and_it_is_judged_again_without_torch(bundle: Bundle) -> None:
    run = ParityRun.load(bundle.file(parity_run_name(ONNX)))
    report = bundle.record(parity_name(ONNX), ParityReport)
    assert run.judge() == report
    assert tuple(run.answers) == BATCH_SIZES
    assert run.claim.sha256 == bundle.manifest.files[ONNX].sha256
    strict = TOLERANCES["fp32"].model_copy(update={"max_abs_error": 0.0})
    assert "max_abs_error" in "\n".join(run.judge(strict).failures)


def test_export_shows_parity_on_the_page_and_evaluate_keeps_it(
    bundle: Bundle, progress: Progress
) -> None:
    from distill.evaluation.reevaluation import reevaluate

    report = bundle.record(parity_name(ONNX), ParityReport)
    shown = f"{report.figures.max_abs_error:.2g}"
    page = bundle.file("report.html").read_text()
    assert "<h3>onnx/model.onnx</h3>" in page
    assert shown in page
    assert bundle.manifest.files["report.html"].stage == "evaluate"
    reevaluate(bundle, progress, with_teacher=False)
    again = Bundle.open(bundle.path).file("report.html").read_text()
    assert again != page  # without the teacher's figures
    section = page[page.index("<!-- parity -->") : page.index("<!-- /parity -->")]
    assert section in again


def test_a_failed_gate_leaves_run_report_and_page_as_they_were(
    bundle: Bundle, progress: Progress
) -> None:
    before = {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}
    with pytest.raises(ParityFailedError):
        export_bundle(
            bundle,
            progress,
            ExportPlan(tolerances=tolerances(["min_cosine=1.1"])),
        )
    after = {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}
    assert {path: data for path, data in after.items() if path.name != ".lock"} == {
        path: data for path, data in before.items() if path.name != ".lock"
    }


def test_the_page_shows_new_reports_beside_others_and_forgets_what_was_withdrawn(
    bundle: Bundle,
) -> None:
    report = bundle.record(parity_name(ONNX), ParityReport)
    half = report.model_copy(update={"artifact": "onnx/model.fp16.onnx"})

    def shown() -> list[str]:
        page = Bundle.open(bundle.path).file("report.html").read_text()
        return [artifact for artifact in (ONNX, half.artifact) if f"<h3>{artifact}" in page]

    with bundle.stage("export") as stage:
        stage.write(parity_name(half.artifact), half)
        show_parity(bundle, stage, [half])
    assert shown() == [ONNX, half.artifact]
    with bundle.stage("export") as stage:
        stage.withdraw(parity_name(half.artifact))
        show_parity(bundle, stage, [report], withdrawn=[half.artifact])
    assert shown() == [ONNX]


@pytest.mark.slow
def test_exporting_again_mends_a_report_of_an_earlier_version(
    bundle: Bundle, progress: Progress
) -> None:
    with bundle.stage("export") as stage:
        stage.write(parity_name(ONNX), "{}")
    with pytest.raises(BundleError, match="run `isogon export"):
        parity_reports(bundle)
    assert export_bundle(bundle, progress)
    assert len(parity_reports(Bundle.open(bundle.path))) == 1
