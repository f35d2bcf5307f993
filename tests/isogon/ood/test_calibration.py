import numpy as np
import pytest

from isogon.errors import UsageError
from isogon.ood import Calibration, scores_needed

SCORES = np.arange(1.0, 20.0)  # 19 calibration images


def test_p_values_count_the_scores_at_least_as_large() -> None:
    calibration = Calibration.from_scores(SCORES, alpha=0.05)
    asked = np.array([0.0, 1.0, 10.0, 19.0, 20.0])
    naive = [(1 + sum(s >= score for s in SCORES)) / 20 for score in asked]
    assert calibration.p_values(asked).tolist() == naive
    assert calibration.is_ood(asked).tolist() == [False, False, False, False, True]


def test_a_nan_score_is_not_familiar() -> None:
    calibration = Calibration.from_scores(SCORES, alpha=0.05)
    assert calibration.is_ood(np.array([np.nan])).all()


def test_familiar_traffic_is_flagged_at_most_at_rate_alpha() -> None:
    generator = np.random.default_rng(0)
    rates = []
    for _ in range(200):
        calibration = Calibration.from_scores(generator.normal(size=99), alpha=0.1)
        rates.append(calibration.is_ood(generator.normal(size=500)).mean())
    assert np.mean(rates) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(("alpha", "needed"), [(0.05, 19), (0.01, 99), (0.1, 9), (0.3, 3)])
def test_the_images_needed_are_just_enough_to_flag(alpha: float, needed: int) -> None:
    assert scores_needed(alpha) == needed
    enough = Calibration.from_scores(np.zeros(needed), alpha=alpha)
    assert enough.is_ood(np.ones(1)).all()
    with pytest.raises(UsageError, match=f"{needed} held-out"):
        Calibration.from_scores(np.zeros(needed - 1), alpha=alpha)


@pytest.mark.parametrize("images", range(2, 40))
def test_the_alpha_that_is_advised_works(images: int) -> None:
    with pytest.raises(UsageError) as caught:
        Calibration.from_scores(np.zeros(images), alpha=0.001)
    advised = float(str(caught.value).split()[-1].rstrip("."))
    assert Calibration.from_scores(np.zeros(images), alpha=advised)


def test_scores_that_are_not_finite_calibrate_nothing() -> None:
    with pytest.raises(UsageError, match="1 of 19"):
        Calibration.from_scores(np.where(SCORES == 3, np.nan, SCORES), alpha=0.05)
