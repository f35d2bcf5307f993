"""The reduced bank: which vectors are kept, what it costs, and when it is in force."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.progress import Progress

from export import (
    ExportPlan,
    TorchRunner,
    calibrate,
    export_bundle,
    graph_from_bundle,
    verify,
)
from export.graph import bank_of, banked, with_bank_of
from export.graph.coreset import centres
from export.parity import ParityImages
from export.reduction import reduce_bank
from isogon.bundle import (
    ONNX,
    REDUCED,
    REDUCTION,
    Bundle,
    DetectorInForce,
    Reduction,
    reduction_in_force,
)
from isogon.errors import BundleError, DamagedFileError, UsageError
from isogon.ood import Detector, DetectorSpec, Knn, NnGuide

WIDTH, CLASSES = 12, 6


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def bank() -> np.ndarray:
    """More vectors than are compared at once, in clusters of unequal size."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, 2500) ** 2 // CLASSES
    return unit(generator.normal(size=(2500, WIDTH)) + 3 * np.eye(WIDTH)[labels])


def naive_centres(bank: np.ndarray, count: int) -> np.ndarray:
    """Spherical k-means by loops, from the same start."""
    drawn = sorted(np.random.default_rng(0).permutation(len(bank))[:count])
    found = [bank[index].astype(np.float64) for index in drawn]
    for _ in range(10):
        members: list[list[np.ndarray]] = [[] for _ in found]
        for vector in bank:
            members[int(np.argmax([vector @ centre for centre in found]))].append(vector)
        for number, cluster in enumerate(members):
            if cluster:
                total = np.sum(cluster, axis=0, dtype=np.float64)
                found[number] = total / np.linalg.norm(total)
    return np.array(found)


def test_centres_are_those_of_a_loop(bank: np.ndarray, progress: Progress) -> None:
    found = centres(bank, 9, progress)
    assert found.dtype == np.float32
    assert found == pytest.approx(naive_centres(bank, 9), abs=1e-5)


def test_centres_are_unit_vectors_and_the_same_each_time(
    bank: np.ndarray, progress: Progress
) -> None:
    found = centres(bank, 300, progress)
    assert found.shape == (300, WIDTH)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(300), abs=1e-6)
    assert np.array_equal(found, centres(bank, 300, progress))


def test_vectors_that_are_all_the_same_have_centres_too(progress: Progress) -> None:
    same = np.tile(unit(np.ones((1, WIDTH))), (50, 1))
    found = centres(same, 5, progress)
    assert found == pytest.approx(same[:5], abs=1e-6)
    opposite = np.concatenate([same[:1], -same[:1]])
    assert np.isfinite(centres(opposite, 1, progress)).all()


def test_a_large_bank_makes_no_matrix_of_its_own_size(progress: Progress) -> None:
    large = unit(np.random.default_rng(0).normal(size=(40_000, 8)))
    tracemalloc.start()
    centres(large, 20, progress)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20  # bytes; 40,000 x 40,000 would be 6,400 MB


@pytest.mark.parametrize(
    ("k", "size", "expected"), [(1, 100, 1), (10, 250, 1), (10, 1250, 5), (50, 100, 2)]
)
def test_the_neighbour_that_counts_moves_with_the_bank(
    bank: np.ndarray, progress: Progress, k: int, size: int, expected: int
) -> None:
    reduced = with_bank_of(Knn.fit(bank, k=k), size, progress)
    assert isinstance(reduced, Knn)
    assert (len(reduced.bank), reduced.k) == (size, expected)


def test_nnguide_keeps_its_k_and_guides_of_the_energy_of_the_centres(
    bank: np.ndarray, progress: Progress
) -> None:
    labels = bank[:, :CLASSES].argmax(axis=1)
    detector = DetectorSpec(name="nnguide", k=10).fit(bank, labels)
    assert isinstance(detector, NnGuide)
    assert bank_of(detector) == pytest.approx(bank, abs=1e-5)  # no energy is negative
    reduced = with_bank_of(detector, 40, progress)
    assert isinstance(reduced, NnGuide)
    expected = NnGuide.fit(centres(bank, 40, progress), detector.probe, k=10)
    assert reduced.k == 10
    assert reduced.guides == pytest.approx(expected.guides, abs=1e-3)
    fewest = with_bank_of(detector, 3, progress)
    assert fewest.k == 3
    assert np.isfinite(fewest.score(bank)).all()


def test_the_reduced_detector_still_separates_familiar_from_unfamiliar(
    progress: Progress,
) -> None:
    generator = np.random.default_rng(1)
    kinds = unit(generator.normal(size=(80, WIDTH)))  # half of them familiar

    def vectors(kinds: np.ndarray, each: int) -> np.ndarray:
        shape = (len(kinds) * each, WIDTH)
        return unit(np.repeat(kinds, each, axis=0) + 0.2 * generator.normal(size=shape))

    familiar, unfamiliar = vectors(kinds[:40], 10), vectors(kinds[40:], 10)

    def found(detector: Detector) -> float:
        return auroc(detector.score(familiar), detector.score(unfamiliar))

    detector = Knn.fit(vectors(kinds[:40], 50), k=25)
    reduced = with_bank_of(detector, 100, progress)
    assert isinstance(reduced, Knn)
    assert found(reduced) > found(detector) - 0.02
    assert found(reduced) > found(replace(reduced, k=25)) + 0.1  # why k moves too


def auroc(familiar: np.ndarray, unfamiliar: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    truth = np.r_[np.zeros(len(familiar)), np.ones(len(unfamiliar))]
    return float(roc_auc_score(truth, np.r_[familiar, unfamiliar]))


def test_a_bank_that_is_small_enough_is_left_as_it_is(
    bank: np.ndarray, progress: Progress
) -> None:
    detector = Knn.fit(bank, k=3)
    assert with_bank_of(detector, 2500, progress) is detector
    assert with_bank_of(detector, 9999, progress) is detector
    with pytest.raises(UsageError, match="at least 1 vector, got bank=0"):
        with_bank_of(detector, 0, progress)


def test_a_detector_without_a_bank_is_refused(bank: np.ndarray) -> None:
    detector = DetectorSpec(name="mahalanobis").fit(bank, np.zeros(len(bank), dtype=int))
    with pytest.raises(UsageError, match=r"Only the detectors knn and nnguide .* mahalan"):
        banked(detector)


def reduced(bundle: Bundle, size: int, progress: Progress) -> Reduction:
    found = reduce_bank(bundle, size, progress)
    with bundle.stage("export") as stage:
        found.write(stage)
    return found.record


def test_the_cost_is_measured_on_the_held_out_images(
    bundle: Bundle, progress: Progress
) -> None:
    found = reduce_bank(bundle, 20, progress)
    images = ParityImages.of(bundle)
    whole = TorchRunner(graph_from_bundle(bundle)).run_all(images.pixels, 32)
    record, count = found.record, images.familiar
    assert (record.size, record.k_before, record.k) == (20, 1, 1)
    assert record.bank == len(bundle.arrays("ood/reference.safetensors")["bank"])
    assert (record.familiar, record.unfamiliar) == (count, len(images.pixels) - count)
    scores = found.detector.score(whole.embeddings)
    assert record.auroc == pytest.approx(auroc(scores[:count], scores[count:]), abs=1e-9)
    scores = whole.ood_scores
    expected = auroc(scores[:count], scores[count:])
    assert record.auroc_before == pytest.approx(expected, abs=1e-3)  # float32 ties


def test_the_cost_is_unknown_without_unfamiliar_images(
    bundle: Bundle, progress: Progress
) -> None:
    familiar = bundle.arrays("held_out.safetensors")["familiar"]
    with bundle.stage("distill") as stage:
        stage.write_arrays("held_out.safetensors", {"familiar": familiar})
    record = reduce_bank(bundle, 20, progress).record
    assert (record.auroc_before, record.auroc, record.unfamiliar) == (None, None, 0)


def test_the_reduced_function_is_exported_and_verified(
    bundle: Bundle, progress: Progress
) -> None:
    before = bundle.file(ONNX).stat().st_size
    record = reduced(bundle, 20, progress)
    assert export_bundle(bundle, progress)
    again = Bundle.open(bundle.path)
    shapes = [list(tensor.dims) for tensor in onnx.load(again.file(ONNX)).graph.initializer]
    assert any(sorted(shape) == [20, 32] for shape in shapes)
    assert not any(record.bank in shape for shape in shapes)
    assert again.file(ONNX).stat().st_size < before
    assert verify(again, progress)
    assert again.record(REDUCTION, Reduction) == record


def test_the_same_reduction_gives_the_same_files(
    bundle: Bundle, progress: Progress
) -> None:
    reduced(bundle, 20, progress)
    first = [bundle.manifest.files[name].sha256 for name in (REDUCTION, REDUCED)]
    reduced(bundle, 30, progress)
    reduced(bundle, 20, progress)  # from the whole bank again, not from the thirty
    assert [bundle.manifest.files[name].sha256 for name in (REDUCTION, REDUCED)] == first


def test_the_whole_bank_ends_a_reduction(bundle: Bundle, progress: Progress) -> None:
    reduced(bundle, 20, progress)
    assert reduction_in_force(bundle, "ood") is not None
    assert DetectorInForce.of(bundle).reduced_bank == 20
    record = reduced(bundle, 10_000, progress)
    assert record.whole
    assert record.auroc == record.auroc_before
    assert reduction_in_force(bundle, "ood") is None
    assert DetectorInForce.of(bundle).reduced_bank is None
    assert len(graph_from_bundle(bundle).score.bank) == record.bank
    assert REDUCTION not in bundle
    assert REDUCED not in Bundle.open(bundle.path)


@pytest.mark.slow
def test_a_damaged_reduction_is_no_reference_and_is_made_again(
    bundle: Bundle, progress: Progress
) -> None:
    reduced(bundle, 20, progress)
    assert export_bundle(bundle, progress)
    path = bundle.file(REDUCED)
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    again = Bundle.open(bundle.path, rewriting=["export"])
    with pytest.raises(DamagedFileError, match="--bank"):
        export_bundle(again, progress)
    assert export_bundle(again, progress, ExportPlan(bank=20))
    assert verify(Bundle.open(bundle.path), progress)


def test_a_reduction_ends_with_the_detector_it_was_made_from(
    bundle: Bundle, digits: Path, progress: Progress
) -> None:
    reduced(bundle, 20, progress)
    assert calibrate(bundle, digits, progress)
    again = Bundle.open(bundle.path)
    assert reduction_in_force(again, "ood/site") is None
    assert REDUCTION not in again
    assert verify(again, progress)


def other_vectors(bundle: Bundle) -> None:
    with bundle.stage("export") as stage:
        stage.write_arrays(REDUCED, {"bank": np.eye(32, dtype=np.float32)[:20]})


def no_vectors(bundle: Bundle) -> None:
    files = {name: e for name, e in bundle.manifest.files.items() if name != REDUCED}
    bundle.manifest = bundle.manifest.model_copy(update={"files": files})


@pytest.mark.parametrize("change", [other_vectors, no_vectors])
def test_vectors_that_are_not_those_chosen_are_refused(
    bundle: Bundle, progress: Progress, change: Callable[[Bundle], None]
) -> None:
    reduced(bundle, 20, progress)
    change(bundle)
    with pytest.raises(BundleError, match=r"is for the vectors .* --bank 20"):
        graph_from_bundle(bundle)


@pytest.mark.slow
def test_nnguide_is_reduced_in_a_bundle_too(
    bundle: Bundle, digits: Path, progress: Progress
) -> None:
    spec = DetectorSpec(name="nnguide", alpha=0.1)
    assert calibrate(bundle, digits, progress, spec=spec)
    bundle = Bundle.open(bundle.path)
    record = reduced(bundle, 15, progress)
    assert (record.size, record.k_before, record.k) == (15, 10, 10)
    detector: Detector = reduce_bank(bundle, 15, progress).detector
    images = ParityImages.of(bundle).pixels[:20]
    found = TorchRunner(graph_from_bundle(bundle)).run(images)
    expected = detector.score(found.embeddings)
    assert found.ood_scores == pytest.approx(expected, abs=1e-4 * np.ptp(expected) + 1e-5)
