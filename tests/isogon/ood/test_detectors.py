from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp, softmax

from isogon.errors import BundleError, UsageError
from isogon.ood import (
    DETECTORS,
    Detector,
    DetectorSpec,
    Energy,
    Gen,
    Knn,
    LinearProbe,
    Mahalanobis,
    MaxLogit,
    Msp,
    NnGuide,
    RelativeMahalanobis,
    Residual,
    She,
    Vim,
    applicable_detectors,
    detector_class,
)

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 3, 90)
BANK = GENERATOR.normal(size=(90, 6)) + np.eye(6)[LABELS] * 4
ASKED = GENERATOR.normal(size=(20, 6)) * 2
PROBE = LinearProbe.fit(BANK, LABELS)
WITHOUT_LABELS = {name for name in DETECTORS if not detector_class(name).needs_labels}


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def spec(name: str, **settings: object) -> DetectorSpec:
    return DetectorSpec.model_validate({"name": name} | settings)


def test_knn_is_the_squared_distance_of_directions_to_the_kth() -> None:
    detector = Knn.fit(BANK, k=5)
    for embedding, score in zip(ASKED, detector.score(ASKED), strict=True):
        distances = sorted(((unit(embedding) - unit(other)) ** 2).sum() for other in BANK)
        assert score == pytest.approx(distances[4], abs=1e-12)


def test_mahalanobis_is_the_textbook_expression() -> None:
    means = np.stack([BANK[LABELS == c].mean(axis=0) for c in range(3)])
    precision = np.linalg.inv(np.cov((BANK - means[LABELS]).T, bias=True))
    expected = [min((f - m) @ precision @ (f - m) for m in means) for f in ASKED]
    assert Mahalanobis.fit(BANK, LABELS).score(ASKED) == pytest.approx(expected)


def test_relative_mahalanobis_subtracts_the_distance_to_everything() -> None:
    alone = Mahalanobis.fit(BANK, LABELS).score(ASKED)
    overall = Mahalanobis.fit(BANK, None).score(ASKED)
    found = RelativeMahalanobis.fit(BANK, LABELS).score(ASKED)
    assert found == pytest.approx(alone - overall)


def test_logit_detectors_are_their_formulas() -> None:
    logits = PROBE.logits(ASKED)
    p = softmax(logits, axis=1)
    assert Msp(probe=PROBE).score(ASKED) == pytest.approx(-p.max(axis=1))
    assert MaxLogit(probe=PROBE).score(ASKED) == pytest.approx(-logits.max(axis=1))
    assert Energy(probe=PROBE).score(ASKED) == pytest.approx(-logsumexp(logits, axis=1))
    entropy = (p**0.1 * (1 - p) ** 0.1).sum(axis=1)
    assert Gen(probe=PROBE).score(ASKED) == pytest.approx(entropy, rel=1e-6)


def test_gen_counts_the_hundred_most_probable_classes() -> None:
    logits = GENERATOR.normal(size=(5, 130))
    probe = LinearProbe(weight=np.eye(130), bias=np.zeros(130), classes=np.arange(130))
    p = np.sort(softmax(logits, axis=1))[:, -100:]
    expected = (p * (1 - p)) ** 0.1
    assert Gen(probe=probe).score(logits) == pytest.approx(expected.sum(axis=1))


def test_residual_is_the_distance_to_the_principal_subspace() -> None:
    detector = Residual.fit(BANK, PROBE, dim=2)
    shifted = BANK - PROBE.origin()
    principal = np.linalg.svd(shifted)[2][:2]
    for embedding, score in zip(ASKED, detector.score(ASKED), strict=True):
        f = embedding - PROBE.origin()
        assert score == pytest.approx(np.linalg.norm(f - f @ principal.T @ principal))


def test_residual_without_labels_is_the_error_of_a_pca() -> None:
    from sklearn.decomposition import PCA

    pca = PCA(2).fit(BANK)
    errors = ASKED - pca.inverse_transform(pca.transform(ASKED))
    detector = DetectorSpec(name="residual", dim=2).fit(BANK)
    assert detector.score(ASKED) == pytest.approx(np.linalg.norm(errors, axis=1))


def test_vim_weighs_the_residual_like_the_largest_logit() -> None:
    residual = Residual.fit(BANK, PROBE, dim=2)
    detector = Vim.fit(BANK, PROBE, dim=2)
    mean_logit = PROBE.logits(BANK).max(axis=1).mean()
    assert (detector.alpha * residual.score(BANK)).mean() == pytest.approx(mean_logit)
    energy = logsumexp(PROBE.logits(ASKED), axis=1)
    expected = detector.alpha * residual.score(ASKED) - energy
    assert detector.score(ASKED) == pytest.approx(expected)


def test_she_compares_with_the_pattern_of_the_predicted_class() -> None:
    predicted = PROBE.predictions(BANK)
    assert (predicted != LABELS).any()  # else the next line tests nothing
    patterns = [BANK[(predicted == c) & (LABELS == c)].mean(axis=0) for c in range(3)]
    expected = [-f @ patterns[PROBE.logits(f[None])[0].argmax()] for f in ASKED]
    assert She.fit(BANK, LABELS, PROBE).score(ASKED) == pytest.approx(expected)


def test_she_of_a_class_that_is_never_predicted_is_finite() -> None:
    flipped = LinearProbe(weight=-PROBE.weight, bias=PROBE.bias, classes=PROBE.classes)
    assert np.isfinite(She.fit(BANK, LABELS, flipped).patterns).all()


def test_nnguide_is_energy_times_guidance() -> None:
    energies = logsumexp(PROBE.logits(BANK), axis=1)
    detector = NnGuide.fit(BANK, PROBE, k=4)
    for f, score in zip(ASKED, detector.score(ASKED), strict=True):
        guides = [unit(f) @ unit(o) * e for o, e in zip(BANK, energies, strict=True)]
        energy = logsumexp(PROBE.logits(f[None]))
        assert score == pytest.approx(-energy * np.mean(sorted(guides)[-4:]))


def test_the_probe_is_the_optimum_of_the_documented_problem() -> None:
    """C = 1 on embeddings that are centred and scaled to a mean squared length of 10."""
    scale = np.sqrt(10 / BANK.var(axis=0).sum())
    data, targets = (BANK - BANK.mean(axis=0)) * scale, np.eye(3)[LABELS]
    bias = PROBE.bias + PROBE.weight @ BANK.mean(axis=0)

    def loss(weight: np.ndarray) -> float:
        likelihood = (log_softmax(data @ weight.T + bias, axis=1) * targets).sum()
        return float((weight**2).sum() / 2 - likelihood)

    best = loss(PROBE.weight / scale)
    for _ in range(20):
        assert loss(PROBE.weight / scale + GENERATOR.normal(size=(3, 6)) * 0.01) > best


def test_the_probe_is_blind_to_scale_and_a_common_mean() -> None:
    other = LinearProbe.fit(BANK / 100 + 7, LABELS)
    assert other.logits(ASKED / 100 + 7) == pytest.approx(PROBE.logits(ASKED), abs=1e-3)


def test_a_probe_of_two_classes_has_a_row_for_each() -> None:
    two = LABELS < 2
    probe = LinearProbe.fit(BANK[two], LABELS[two] + 5)
    assert probe.weight.shape == (2, 6)
    assert probe.classes.tolist() == [5, 6]
    found = probe.classes[probe.predictions(BANK[two])]
    assert (found == LABELS[two] + 5).mean() > 0.9


def test_a_class_for_almost_every_image_is_no_reason_to_warn() -> None:
    assert len(LinearProbe.fit(BANK, np.arange(len(BANK))).classes) == len(BANK) > 20


def test_the_probes_origin_is_not_blown_up_by_rows_that_sum_to_zero() -> None:
    assert np.abs(PROBE.weight.sum(axis=0)).max() < 1e-6 * np.abs(PROBE.weight).max()
    assert np.linalg.norm(PROBE.origin()) < 10 * np.linalg.norm(BANK, axis=1).max()
    assert np.ptp(PROBE.logits(PROBE.origin()[None])) < 1e-6


# What is less familiar to each detector: far away, between the classes, or off the plane.
FAR, BETWEEN = -np.ones((1, 6)) * 9, BANK.mean(axis=0, keepdims=True)


@pytest.mark.parametrize(
    ("name", "unfamiliar"),
    [
        ("knn", FAR),
        ("mahalanobis", FAR),
        ("relative_mahalanobis", BETWEEN),
        ("residual", np.array([[0, 0, 0, 9.0, 9, 9]])),
        ("vim", np.array([[0, 0, 0, 9.0, 9, 9]])),
        ("msp", BETWEEN),
        ("max_logit", BETWEEN),
        ("energy", BETWEEN),
        ("gen", BETWEEN),
        ("she", FAR),
        ("nnguide", FAR),
    ],
)
def test_scores_are_larger_when_less_familiar(name: str, unfamiliar: np.ndarray) -> None:
    detector = spec(name).fit(BANK, LABELS)
    assert detector.score(unfamiliar)[0] > np.quantile(detector.score(BANK), 0.9)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_survives_storage(name: str) -> None:
    asked = spec(name, k=3, dim=4)
    detector = asked.fit(BANK, LABELS)
    assert np.array_equal(asked.load(detector.arrays()).score(ASKED), detector.score(ASKED))


@pytest.mark.parametrize("name", DETECTORS)
def test_a_shared_probe_changes_nothing(name: str) -> None:
    alone = spec(name).fit(BANK, LABELS).score(ASKED)
    assert np.array_equal(spec(name).fit(BANK, LABELS, probe=PROBE).score(ASKED), alone)


def without(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in arrays.items() if key != name}


def flattened(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return arrays | {name: arrays[name][None]}


def not_finite(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return arrays | {name: np.full_like(arrays[name], np.nan, dtype=np.float64)}


def emptied(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return arrays | {name: arrays[name][:0]}


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("damage", [without, flattened, not_finite, emptied])
def test_damaged_statistics_are_named(
    name: str, damage: Callable[[dict[str, np.ndarray], str], dict[str, np.ndarray]]
) -> None:
    asked = spec(name, k=3)
    arrays = asked.fit(BANK, LABELS).arrays()
    for array in arrays:
        with pytest.raises(BundleError, match=f"`{array}`.*Fit it again"):
            asked.load(damage(arrays, array))


def test_statistics_of_different_widths_are_not_mixed() -> None:
    arrays = spec("vim").fit(BANK, LABELS).arrays()
    other = spec("vim").fit(BANK[:, :5], LABELS).arrays()
    with pytest.raises(BundleError, match=r"but d = 6 in the other arrays"):
        spec("vim").load(arrays | {"residual.origin": other["residual.origin"]})


@pytest.mark.parametrize("name", ["knn", "nnguide"])
def test_a_stored_bank_too_small_for_k_is_refused(name: str) -> None:
    arrays = spec(name, k=3).fit(BANK, LABELS).arrays()
    with pytest.raises(BundleError, match="90 references are too few for k = 91"):
        spec(name, k=91).load(arrays)


def test_directions_without_variance_do_not_blow_up() -> None:
    flat = BANK.copy()
    flat[:, 0] = 1.0
    assert np.isfinite(Mahalanobis.fit(flat, LABELS).score(ASKED)).all()


def test_impossible_fits_say_what_to_do() -> None:
    with pytest.raises(UsageError, match="k = 50 needs a bank"):
        DetectorSpec(name="knn", k=50).fit(BANK[:10])
    with pytest.raises(UsageError, match="k = 10 needs a bank"):
        DetectorSpec(name="nnguide").fit(BANK[:9], LABELS[:9])
    with pytest.raises(UsageError, match="vary within a class"):
        Mahalanobis.fit(np.ones((5, 3)), None)
    with pytest.raises(
        UsageError, match="needs dim below the embedding dimension, got dim = 6"
    ):
        DetectorSpec(name="vim", dim=6).fit(BANK, LABELS)
    with pytest.raises(UsageError, match="dim = 3 needs a bank of more than 3 images"):
        DetectorSpec(name="residual").fit(BANK[:3])
    with pytest.raises(UsageError, match="needs two or more classes, got 1"):
        DetectorSpec(name="energy").fit(BANK, np.zeros_like(LABELS))
    plane = BANK * np.array([1, 1, 0, 0, 0, 0.0])
    with pytest.raises(UsageError, match="vary in more than dim = 3"):
        DetectorSpec(name="vim").fit(plane, LABELS)


@pytest.mark.parametrize("name", sorted(set(DETECTORS) - WITHOUT_LABELS))
def test_missing_labels_are_named_with_a_detector_that_needs_none(name: str) -> None:
    with pytest.raises(UsageError, match=f"The {name} detector .* needs labels.*knn"):
        spec(name).fit(BANK)


def fitted(bank: int, labelled: bool) -> dict[str, Detector]:
    labels = LABELS[:bank] if labelled else None
    found = applicable_detectors(bank, 6, labelled)
    return {name: spec.fit(BANK[:bank], labels) for name, spec in found.items()}


def test_applicable_detectors_are_those_that_can_be_fitted() -> None:
    everything = ["knn_k1", "knn_k50", *(name for name in DETECTORS if name != "knn")]
    assert list(fitted(90, labelled=True)) == everything
    assert list(fitted(30, labelled=True)) == [n for n in everything if n != "knn_k50"]
    unlabelled = {"knn_k1", "knn_k50"} | (WITHOUT_LABELS - {"knn"})
    assert set(fitted(90, labelled=False)) == unlabelled
    assert {"knn_k1", "mahalanobis", "residual"} <= unlabelled
    few = set(fitted(3, labelled=False))
    assert {"knn_k1", "mahalanobis"} <= few
    assert not {"knn_k50", "residual"} & few


def test_a_detector_of_another_version_is_read_and_named_where_it_is_needed() -> None:
    other = DetectorSpec(name="mine")  # as a bundle's `detector.json` may say
    with pytest.raises(UsageError, match=r"no detector `mine`; it has .*knn.* inspected"):
        other.fit(BANK)
    with pytest.raises(UsageError, match="no detector `mine`"):
        other.load({})
