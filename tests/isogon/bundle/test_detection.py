"""How well a model detects, in one sentence."""

import pytest

from isogon.bundle.evaluation import (
    Bootstrap,
    Evaluation,
    Kind,
    Quality,
    Training,
    UnfamiliarSet,
)
from isogon.bundle.false_alarms import detection_sentence


def evaluation(*sets: tuple[Kind, int, int | None]) -> Evaluation:
    """An evaluation with these unfamiliar sets: kind, images, flagged."""
    return Evaluation(
        bank_images=100,
        test_images=20,
        test_digest="",
        unfamiliar={
            str(number): UnfamiliarSet(kind=kind, images=images, flagged=flagged)
            for number, (kind, images, flagged) in enumerate(sets)
        },
        detector="knn_k1",
        bootstrap=Bootstrap(resamples=10, seed=0),
        fidelity=None,
        teacher=None,
        student=Quality(knn_accuracy=None, linear_accuracy=None, ood={}),
        training=Training(terms=()),
    )


@pytest.mark.parametrize(
    ("flagged", "images", "share"),
    [
        (74, 105, "70 %"),
        (0, 105, "0 %"),
        (1, 3000, "less than 1 %"),
        (2999, 3000, "more than 99 %"),
        (3000, 3000, "100 %"),
    ],
)
def test_the_share_is_in_whole_percents_of_which_0_and_100_are_exact(
    flagged: int, images: int, share: str
) -> None:
    said = detection_sentence(evaluation(("far", images, flagged)))
    assert said == f"Flags {share} of {images:,} unfamiliar images."


def test_near_and_far_sets_are_counted_apart() -> None:
    found = evaluation(("near", 50, 5), ("far", 60, 45), ("near", 50, 10), ("far", 40, 40))
    assert detection_sentence(found) == (
        "Flags 85 % of 100 far and 15 % of 100 near unfamiliar images."
    )


def test_what_was_not_counted_is_left_out() -> None:
    assert detection_sentence(evaluation()) is None
    assert detection_sentence(evaluation(("far", 100, None))) is None
    found = evaluation(("near", 50, None), ("far", 60, 45))
    assert detection_sentence(found) == "Flags 75 % of 60 unfamiliar images."
