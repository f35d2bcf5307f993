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
        ours, theirs = (
            {j for j in sorted(range(30), key=lambda j: -(e[i] @ e[j])) if j != i}
            and set(
                sorted((j for j in range(30) if j != i), key=lambda j: -(e[i] @ e[j]))[:10]
            )
            for e in (EMBEDDINGS, noisy)
        )
        shares.append(len(ours & theirs) / 10)
    assert compared(noisy).neighbour_agreement == pytest.approx(np.mean(shares))


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
