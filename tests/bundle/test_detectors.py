import numpy as np
import pytest

from bundle import DetectorSpec, UsageError
from bundle.detectors import Knn, Mahalanobis, RelativeMahalanobis

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 3, 90)
BANK = GENERATOR.normal(size=(90, 6)) + np.eye(6)[LABELS] * 4
ASKED = GENERATOR.normal(size=(20, 6)) * 2


def test_knn_is_the_squared_distance_of_directions_to_the_kth() -> None:
    detector = Knn.fit(BANK, k=5)
    for embedding, score in zip(ASKED, detector.score(ASKED), strict=True):
        direction = embedding / np.linalg.norm(embedding)
        distances = sorted(
            ((direction - other / np.linalg.norm(other)) ** 2).sum() for other in BANK
        )
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


@pytest.mark.parametrize(
    ("name", "unfamiliar"),
    [
        ("knn", -np.ones((1, 6)) * 9),
        ("mahalanobis", -np.ones((1, 6)) * 9),
        ("relative_mahalanobis", BANK.mean(axis=0, keepdims=True)),  # between classes
    ],
)
def test_scores_are_larger_when_less_familiar(name: str, unfamiliar: np.ndarray) -> None:
    detector = DetectorSpec(name=name).fit(BANK, LABELS)
    assert detector.score(unfamiliar)[0] > np.quantile(detector.score(BANK), 0.9)


@pytest.mark.parametrize("name", ["knn", "mahalanobis", "relative_mahalanobis"])
def test_a_detector_survives_storage(name: str) -> None:
    spec = DetectorSpec(name=name, k=3)
    detector = spec.fit(BANK, LABELS)
    assert np.array_equal(spec.load(detector.arrays()).score(ASKED), detector.score(ASKED))


def test_directions_without_variance_do_not_blow_up() -> None:
    flat = BANK.copy()
    flat[:, 0] = 1.0
    assert np.isfinite(Mahalanobis.fit(flat, LABELS).score(ASKED)).all()


def test_impossible_fits_say_what_to_do() -> None:
    with pytest.raises(UsageError, match="k = 50 needs a bank"):
        DetectorSpec(name="knn", k=50).fit(BANK[:10])
    with pytest.raises(UsageError, match="needs labels"):
        DetectorSpec(name="relative_mahalanobis").fit(BANK)
    with pytest.raises(UsageError, match="vary within a class"):
        Mahalanobis.fit(np.ones((5, 3)), None)
