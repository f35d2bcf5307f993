import numpy as np
import pytest

from bundle import Figures, Outputs, ParityReport, Tolerance, figures

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
    for name in Tolerance.model_fields:
        assert name in broken


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


def test_a_report_that_compared_nothing_is_false() -> None:
    report = ParityReport(
        artifact="onnx/model.onnx",
        sha256="0" * 64,
        reference="torch",
        candidate="onnxruntime",
        batch_sizes=(1,),
        figures=Figures.none(),
        tolerance=Tolerance(),
        calibration=None,
    )
    assert not report
    assert "no images were compared" in report.failures


def test_a_nan_survives_the_report_file() -> None:
    found = compared(np.full_like(EMBEDDINGS, np.nan))
    again = Figures.model_validate_json(found.model_dump_json())
    assert np.isnan(again.min_cosine)
    assert again.failures(Tolerance())
