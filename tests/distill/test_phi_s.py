import numpy as np
import pytest
from scipy.linalg import hadamard as sylvester

from distill.targets.phi_s import PhiS, hadamard


def features(width: int, count: int = 3000, seed: int = 0) -> np.ndarray:
    """Correlated channels of very different variances, far from the origin."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(width, width)) * generator.exponential(size=width) ** 2
    return generator.normal(size=(count, width)) @ mixing + 3 * generator.normal(size=width)


def balanced_by(phi_s: PhiS, rows: np.ndarray) -> np.ndarray:
    return phi_s.scale * (rows - rows.mean(axis=0)) @ phi_s.rotation.T


@pytest.mark.parametrize("width", [1, 2, 8, 12, 20, 28, 36, 3, 7, 52])
def test_every_channel_has_unit_variance_and_distances_keep_their_proportions(
    width: int,
) -> None:
    rows = features(width)
    phi_s = PhiS.estimated(rows)
    balanced = balanced_by(phi_s, rows)
    np.testing.assert_allclose(balanced.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(balanced.var(axis=0), 1, rtol=1e-6)
    before = np.linalg.norm(rows[:50, None] - rows[None, :50], axis=2)
    after = np.linalg.norm(balanced[:50, None] - balanced[None, :50], axis=2)
    np.testing.assert_allclose(after, phi_s.scale * before, rtol=1e-9, atol=1e-9)
    identity = phi_s.rotation @ phi_s.rotation.T
    np.testing.assert_allclose(identity, np.eye(width), atol=1e-9)


def test_it_is_the_formula_of_the_paper() -> None:
    rows = features(16)
    covariance = np.cov(rows.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    rotation = sylvester(16) / 4 @ vectors[:, ::-1].T
    expected = np.empty_like(rows)
    for number, row in enumerate(rows):
        expected[number] = rotation @ (row - rows.mean(axis=0)) / np.sqrt(values.mean())
    found = balanced_by(PhiS.estimated(rows), rows)
    signs = np.sign((found * expected).sum(axis=0))
    # Eigenvectors are known up to their sign, which turns a Hadamard row into another.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-8, atol=1e-8)
    assert signs.shape == (16,)


def test_it_reads_half_precision_in_blocks() -> None:
    rows = features(6, count=9000).astype(np.float16)
    phi_s = PhiS.estimated(rows)
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(phi_s.scale, 1 / np.sqrt(wide.var(axis=0).mean()), rtol=1e-9)


def test_features_that_do_not_vary_are_only_centred() -> None:
    rows = np.ones((10, 4))
    np.testing.assert_array_equal(balanced_by(PhiS.estimated(rows), rows), 0)


@pytest.mark.parametrize("width", [64, 192, 320, 384, 768, 960, 1024, 1152, 1280, 1536])
def test_the_widths_of_networks_have_hadamard_matrices(width: int) -> None:
    matrix = hadamard(width)
    assert matrix is not None
    assert np.array_equal(np.abs(matrix), np.ones((width, width)))
    assert np.array_equal(matrix @ matrix.T, width * np.eye(width))


@pytest.mark.parametrize("width", [3, 6, 92])
def test_no_hadamard_matrix_is_known_for_other_widths(width: int) -> None:
    assert hadamard(width) is None
