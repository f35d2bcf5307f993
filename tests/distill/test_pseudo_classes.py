import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from distill.images.pseudo_classes import pseudo_classes
from isogon.errors import UsageError


def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Three clusters of directions; each vector has a different length."""
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    centres = np.linalg.qr(generator.normal(size=(8, 8)))[0][:3]
    directions = centres[labels] + 0.05 * generator.normal(size=(90, 8))
    return directions * generator.uniform(0.1, 10, size=(90, 1)), labels


def test_pseudo_classes_find_directions_whatever_their_length() -> None:
    features, labels = clusters()
    before = features.copy()
    found = pseudo_classes(features, 3, 0)
    assert found.dtype == np.int64
    assert adjusted_rand_score(labels, found) == 1.0
    assert np.array_equal(features, before)


def test_pseudo_classes_depend_on_the_seed_alone() -> None:
    features = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    first, again, other = (pseudo_classes(features, 10, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert set(first) == set(range(10))


@pytest.mark.parametrize("count", [1, 91])
def test_pseudo_classes_need_images_and_two_clusters(count: int) -> None:
    with pytest.raises(UsageError, match=f"from 2 to 90 pseudo-classes.*got {count}"):
        pseudo_classes(clusters()[0], count, 0)


def test_pseudo_classes_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    pseudo_classes(clusters()[0], 3, 0)
    assert capfd.readouterr() == ("", "")
