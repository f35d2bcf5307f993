"""Whether distilling has paid: one rule, for good and for bad results."""

from typing import Any

import pytest

from isogon.bundle.evaluation import Evaluation
from isogon.bundle.worth import gains_of, worth_of


def figures(overlap: float, distortion: float, knn: float, auroc: float) -> dict[str, Any]:
    estimate = {"value": knn, "low": knn - 0.03, "high": knn + 0.03}
    score = {"value": auroc, "low": auroc - 0.03, "high": auroc + 0.03}
    found = {"auroc": score, "fpr95_ood_positive": 0.1, "fpr95_id_positive": 0.1}
    kept = {"angle_distortion": distortion, "neighbour_overlap": overlap, "linear_cka": 0.5}
    quality = {
        "knn_accuracy": estimate,
        "linear_accuracy": estimate,
        "ood": {"textures": {"mahalanobis": found}},
    }
    return {"fidelity": kept, "quality": quality}


def evaluation(
    *,
    overlap: float = 0.0,
    distortion: float = 0.0,
    knn: float = 0.0,
    auroc: float = 0.0,
    pretrained: bool = True,
) -> Evaluation:
    """An evaluation with these gains, each known to 0.01."""
    gained = {
        "angle distortion": distortion,
        "overlap@10": overlap,
        "kNN accuracy": knn,
        "AUROC textures": auroc,
    }
    student = figures(0.28 + overlap, 0.074 + distortion, 0.716 + knn, 0.95 + auroc)
    document = {
        "bank_images": 60,
        "test_images": 25,
        "test_digest": "0" * 64,
        "unfamiliar": {"textures": {"images": 15, "kind": "far"}},
        "detector": "mahalanobis",
        "bootstrap": {"resamples": 1000, "seed": 0},
        "fidelity": student["fidelity"],
        "teacher": None,
        "student": student["quality"],
        "training": {"terms": ()},
        "undistilled": figures(0.28, 0.074, 0.716, 0.95),
        "pretrained": pretrained,
        "gains": {
            name: {"value": value, "low": value - 0.01, "high": value + 0.01}
            for name, value in gained.items()
        },
    }
    return Evaluation.model_validate(document)


def without_teacher(found: Evaluation) -> Evaluation:
    assert found.undistilled is not None
    kept = ("kNN accuracy", "AUROC textures")
    return found.model_copy(
        update={
            "fidelity": None,
            "undistilled": found.undistilled.model_copy(update={"fidelity": None}),
            "gains": {name: found.gains[name] for name in kept},
        }
    )


def test_a_student_better_on_what_it_is_for_has_paid_and_the_sentence_says_by_how_much() -> (
    None
):
    worth = worth_of(evaluation(overlap=0.108, distortion=-0.021, knn=0.025))
    assert worth.verdict == "paid"
    assert worth.sentence == (
        "Distilling has paid: overlap@10 0.388, undistilled 0.280 "
        "(+0.108 [+0.098, +0.118]); angle distortion (lower is better) 0.053, undistilled "
        "0.074 (-0.021 [-0.031, -0.011]); kNN accuracy 0.741, undistilled 0.716 "
        "(+0.025 [+0.015, +0.035]); AUROC textures 0.950, undistilled 0.950 "
        "(+0.000 [-0.010, +0.010])."
    )


@pytest.mark.parametrize(
    "gained",
    [
        {"overlap": -0.22, "distortion": 0.03},
        {"overlap": -0.22, "distortion": -0.03},
        {"distortion": 0.03, "knn": 0.1},
    ],
)
def test_a_student_worse_in_overlap_or_distortion_has_not_paid(
    gained: dict[str, float],
) -> None:
    worth = worth_of(evaluation(**gained))
    assert worth.verdict == "not paid"
    worse = "overlap@10" if gained.get("overlap") else "angle distortion"
    assert worth.sentence.startswith(f"Distilling has NOT paid: worse in {worse}")


@pytest.mark.parametrize(
    ("gained", "said"),
    [
        ({"distortion": -0.009}, "made no clear difference"),
        (
            {"overlap": 0.1, "distortion": -0.009},
            "gained something, and the rest is undecided",
        ),
        (
            {"overlap": 0.1, "distortion": -0.03, "knn": -0.05},
            "gained something and lost something",
        ),
        ({"overlap": 0.1, "distortion": 0.03}, "gained something and lost something"),
        ({"knn": -0.05}, "lost something, and the rest is undecided"),
    ],
)
def test_what_the_intervals_leave_open_is_unclear(
    gained: dict[str, float], said: str
) -> None:
    worth = worth_of(evaluation(**gained))
    assert worth.verdict == "unclear"
    assert worth.sentence.startswith(f"Distilling has {said}: ")


def test_what_a_student_that_has_paid_lost_comes_last_and_by_name() -> None:
    worth = worth_of(evaluation(overlap=0.1, distortion=-0.03, knn=0.02, auroc=-0.03))
    assert worth.verdict == "paid"
    lost = "; but worse in AUROC textures 0.920, undistilled 0.950 (-0.030 ["
    assert lost in worth.sentence
    assert worth.sentence.count("AUROC") == 1


def test_random_networks_say_so() -> None:
    worth = worth_of(evaluation(overlap=0.3, distortion=-0.03, pretrained=False))
    assert worth.verdict == "paid"
    assert "no pretrained weights, so undistilled means random" in worth.sentence
    assert "random" not in worth_of(evaluation(overlap=0.3)).sentence


@pytest.mark.parametrize(
    ("knn", "verdict"), [(0.02, "paid"), (-0.02, "not paid"), (0.0, "unclear")]
)
def test_without_the_teacher_accuracy_decides(knn: float, verdict: str) -> None:
    worth = worth_of(without_teacher(evaluation(knn=knn)))
    assert worth.verdict == verdict
    assert "overlap" not in worth.sentence


def test_nothing_is_claimed_about_figures_that_were_not_measured() -> None:
    found = evaluation(overlap=0.1)
    old = found.model_copy(update={"undistilled": None, "gains": {}, "pretrained": None})
    assert worth_of(old).verdict == "unknown"
    assert "`isogon evaluate` measures it" in worth_of(old).sentence
    assert gains_of(old) == ()
    empty = found.model_copy(update={"gains": {}})
    assert worth_of(empty).verdict == "unknown"
    assert "is not known" in worth_of(empty).sentence
