import numpy as np
import pytest

from isogon.ood.neighbours import BLOCK
from isogon.parity import TOLERANCES, Figures, Tolerance, figures, rank_correlation
from isogon.runtimes import Outputs

GENERATOR = np.random.default_rng(0)
EMBEDDINGS = GENERATOR.normal(size=(30, 8)).astype(np.float32)
EMBEDDINGS /= np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
SCORES = GENERATOR.random(30).astype(np.float32)
SAME = Outputs(embeddings=EMBEDDINGS, ood_scores=SCORES)
FLAGGED = SCORES > 0.9


def compared(embeddings: np.ndarray, scores: np.ndarray = SCORES) -> Figures:
    candidate = Outputs(embeddings=embeddings, ood_scores=scores)
    return figures(SAME, candidate, reference_is_ood=FLAGGED, candidate_is_ood=scores > 0.9)


def test_equal_outputs_break_no_bound() -> None:
    found = compared(EMBEDDINGS)
    assert found.failures(Tolerance()) == ()
    assert (found.images, found.max_abs_error, found.neighbour_agreement) == (30, 0, 1)


def test_each_bound_is_named_when_it_breaks() -> None:
    swapped = compared(EMBEDDINGS[::-1].copy(), SCORES[::-1].copy())
    broken = "\n".join(swapped.failures(Tolerance()))
    for name in Figures.model_fields:
        assert name in broken or name in ("images", "max_norm_error")


@pytest.mark.parametrize("broken", [np.inf, np.nan, 1e30])
def test_what_is_not_finite_breaks_bounds_and_warns_of_nothing(broken: float) -> None:
    embeddings, scores = EMBEDDINGS.copy(), SCORES.copy()
    embeddings[3], scores[3] = broken, broken
    failures = compared(embeddings, scores).failures(TOLERANCES["int8"])
    assert len(failures) >= 5


def test_neighbours_agree_as_a_naive_loop_says() -> None:
    noisy = EMBEDDINGS + GENERATOR.normal(size=EMBEDDINGS.shape).astype(np.float32) / 5
    shares = []
    for i in range(30):
        others = [j for j in range(30) if j != i]
        ours, theirs = (
            set(sorted(others, key=lambda j: -(vectors[i] @ vectors[j]))[:10])
            for vectors in (EMBEDDINGS, noisy)
        )
        shares.append(len(ours & theirs) / 10)
    assert compared(noisy).neighbour_agreement == pytest.approx(np.mean(shares))


def test_duplicates_have_no_order_to_keep() -> None:
    same = np.repeat(EMBEDDINGS[:1], 40, axis=0)
    jittered = same + GENERATOR.normal(size=same.shape).astype(np.float32) * 1e-7
    flags, scores = np.zeros(40, dtype=bool), np.zeros(40, dtype=np.float32)
    found = figures(
        Outputs(embeddings=same, ood_scores=scores),
        Outputs(embeddings=jittered, ood_scores=scores),
        reference_is_ood=flags,
        candidate_is_ood=flags,
    )
    assert found.neighbour_agreement == 1


@pytest.mark.parametrize("wrong", [SCORES * 0, -SCORES, 1000 * SCORES + 7])
def test_wrong_scores_fail_even_where_no_decision_differs(wrong: np.ndarray) -> None:
    candidate = Outputs(embeddings=EMBEDDINGS, ood_scores=wrong.astype(np.float32))
    nothing = np.zeros(30, dtype=bool)
    found = figures(SAME, candidate, reference_is_ood=nothing, candidate_is_ood=nothing)
    assert found.decision_agreement == 1
    assert "max_score_error" in "\n".join(found.failures(Tolerance()))


@pytest.mark.parametrize("where", ["embeddings", "scores"])
def test_a_single_nan_fails(where: str) -> None:
    embeddings, scores = EMBEDDINGS.copy(), SCORES.copy()
    if where == "embeddings":
        embeddings[3, 2] = np.nan
    else:
        scores[3] = np.nan
    assert compared(embeddings, scores).failures(Tolerance())
    assert compared(embeddings, scores).worst(compared(EMBEDDINGS)).failures(Tolerance())
    assert compared(EMBEDDINGS).worst(compared(embeddings, scores)).failures(Tolerance())


def test_a_nan_survives_the_report_file() -> None:
    found = compared(np.full_like(EMBEDDINGS, np.nan))
    again = Figures.model_validate_json(found.model_dump_json())
    assert np.isnan(again.min_cosine)
    assert again.failures(Tolerance())


def test_more_images_than_a_block_agree_as_those_at_once_do() -> None:
    vectors = GENERATOR.normal(size=(BLOCK + 200, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    noisy = vectors + GENERATOR.normal(size=vectors.shape).astype(np.float32) / 20
    ours, theirs = vectors @ vectors.T, noisy @ noisy.T
    shares = []
    for i in range(len(vectors)):
        ours[i, i] = theirs[i, i] = -np.inf
        nearest = set(np.argsort(-ours[i])[:10]) & set(np.argsort(-theirs[i])[:10])
        shares.append(len(nearest) / 10)
    scores, flags = np.zeros(len(vectors), np.float32), np.zeros(len(vectors), bool)
    found = figures(
        Outputs(embeddings=vectors, ood_scores=scores),
        Outputs(embeddings=noisy, ood_scores=scores),
        reference_is_ood=flags,
        candidate_is_ood=flags,
    )
    # Of cosines within the tie of the tenth, either may be the neighbour.
    assert found.neighbour_agreement == pytest.approx(np.mean(shares), abs=2e-3)


def test_the_cosine_is_of_directions_and_the_length_has_a_figure_of_its_own() -> None:
    longer = compared(EMBEDDINGS * np.float32(1.05))
    assert longer.min_cosine == pytest.approx(1, abs=1e-7)
    assert longer.max_norm_error == pytest.approx(0.05, abs=1e-6)
    cosines = (EMBEDDINGS[::-1] * EMBEDDINGS).sum(axis=1)
    turned = compared(EMBEDDINGS[::-1].copy())
    assert turned.min_cosine == pytest.approx(cosines.min(), abs=1e-6)
    assert turned.mean_cosine == pytest.approx(cosines.mean(), abs=1e-6)
    assert turned.max_norm_error < 1e-6


def test_an_embedding_of_zeros_fails_without_a_warning() -> None:
    embeddings = EMBEDDINGS.copy()
    embeddings[7] = 0
    assert "min_cosine nan" in "\n".join(compared(embeddings).failures(Tolerance()))


def test_rank_correlation_is_that_of_scipy_ties_included() -> None:
    from scipy.stats import spearmanr

    ours = GENERATOR.normal(size=200)
    assert rank_correlation(ours, np.exp(ours)) == pytest.approx(1)
    assert rank_correlation(ours, -ours) == pytest.approx(-1)
    for decimals in (0, 1):
        one = ours.round(decimals)
        other = (ours + GENERATOR.normal(size=200)).round(decimals)
        expected = spearmanr(one, other).statistic
        assert rank_correlation(one, other) == pytest.approx(expected)


def test_constant_scores_have_no_order_unless_both_are_constant() -> None:
    constant, nan = np.full(9, 0.3), np.full(9, np.nan)
    varied = np.arange(9.0)
    assert rank_correlation(constant, constant - 7) == 1
    for other in (constant, nan):
        assert np.isnan(rank_correlation(varied, other))
        assert np.isnan(rank_correlation(other, varied))
    assert np.isnan(rank_correlation(nan, nan))


def test_scores_of_known_images_have_no_order_to_keep() -> None:
    rounding = np.float32(1e-5) * GENERATOR.random(30).astype(np.float32)
    known = np.where(np.arange(30) < 25, 0, SCORES).astype(np.float32)
    candidate = Outputs(embeddings=EMBEDDINGS, ood_scores=known + rounding)
    flags = np.zeros(30, dtype=bool)
    found = figures(
        Outputs(embeddings=EMBEDDINGS, ood_scores=known),
        candidate,
        reference_is_ood=flags,
        candidate_is_ood=flags,
    )
    assert rank_correlation(known, known + rounding) < 0.9
    assert found.score_rank_correlation == 1
