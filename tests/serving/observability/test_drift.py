"""The drift test: equal to a naive computation, and with the promised run length."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from serving.observability.drift import DriftTest


def fed(
    calibration: np.ndarray,
    scores: np.ndarray,
    window: int,
    chunk: int,
    run_length: float = 1e6,
) -> DriftTest:
    test = DriftTest(calibration, window=window, run_length=run_length)
    for start in range(0, len(scores), chunk):
        test.add(scores[start : start + chunk])
    return test


def naive_distance(one: np.ndarray, two: np.ndarray) -> float:
    at = np.concatenate([one, two])
    return max(abs(np.mean(one <= x) - np.mean(two <= x)) for x in at)


@pytest.mark.parametrize("decimals", [1, 12], ids=["many ties", "no ties"])
@pytest.mark.parametrize("chunk", [1, 7, 64, 500])
def test_the_distance_is_that_of_a_naive_computation_and_of_scipy(
    decimals: int, chunk: int
) -> None:
    random = np.random.default_rng(0)
    calibration = random.normal(size=83).round(decimals)
    scores = random.normal(0.3, 1.2, size=470).round(decimals)
    test = fed(calibration, scores, 150, chunk)
    last = scores[465 - 150 : 465]  # the last look: every 15 images
    assert test.distance == pytest.approx(naive_distance(calibration, last), abs=1e-12)
    assert test.distance == pytest.approx(ks_2samp(calibration, last).statistic, abs=1e-12)


@pytest.mark.parametrize("window", [1, 5, 14, 105])
def test_a_window_that_is_no_multiple_of_its_looks_stays_exact(window: int) -> None:
    random = np.random.default_rng(1)
    calibration, scores = random.normal(size=40), random.normal(size=330)
    test = fed(calibration, scores, window, 3)
    looked = len(scores) - len(scores) % max(1, window // 10)
    last = scores[looked - window : looked]
    assert test.distance == pytest.approx(naive_distance(calibration, last), abs=1e-12)


def test_there_is_no_verdict_before_the_window_is_full() -> None:
    calibration = np.arange(50.0)
    test = fed(calibration, np.full(199, 99.0), 200, 10)
    assert (test.full, test.alarm, test.distance) == (False, False, 0.0)
    test.add(np.array([99.0]))
    assert (test.full, test.alarm, test.distance) == (True, True, 1.0)


def test_a_score_that_is_not_a_number_is_unfamiliar() -> None:
    assert fed(np.arange(50.0), np.full(200, np.nan), 200, 50).alarm


def test_scores_that_are_all_alike_in_both_are_no_drift() -> None:
    assert fed(np.full(100, 2.5), np.full(400, 2.5), 200, 50).distance == 0.0


@pytest.mark.parametrize(
    ("n", "m"), [(100, 100), (270, 200), (270, 1000), (1000, 1000), (2000, 500)]
)
def test_the_p_value_is_never_below_the_exact_one_where_alarms_are_decided(
    n: int, m: int
) -> None:
    for distance in (0.12, 0.16, 0.2, 0.25):
        # Uniform scores whose distribution functions differ by exactly so much.
        calibration = (np.arange(n) + 0.5) / n
        scores = (np.arange(m) + 0.5) / m
        scores = np.where(scores < distance, scores + 1, scores)
        test = fed(calibration, scores, m, m)
        exact = ks_2samp(calibration, scores, method="exact")
        assert test.distance == pytest.approx(exact.statistic)
        assert exact.pvalue <= test.p_value <= 6 * exact.pvalue + 1e-30


def test_familiar_traffic_alarms_no_more_often_than_promised() -> None:
    random = np.random.default_rng(2)
    window, run_length, runs = 200, 20_000, 200
    alarmed = 0
    for _ in range(runs):
        test = DriftTest(random.random(270), window=window, run_length=run_length)
        for _ in range(run_length // 20 // 20):
            test.add(random.random(20))
            if test.alarm:
                alarmed += 1
                break
    # 1000 images are 50 looks at a level of 20 / 40,000: at most 2.5 % of the runs.
    assert alarmed <= 0.025 * runs


@pytest.mark.parametrize("unlike", [1.5, 0.05], ids=["less familiar", "too familiar"])
def test_traffic_that_changes_alarms_and_stops_when_it_changes_back(
    unlike: float,
) -> None:
    random = np.random.default_rng(3)
    test = fed(random.random(270), random.random(1000), 500, 50)
    assert not test.alarm
    test.add(random.random(500) * unlike)
    assert test.alarm
    assert test.p_value < 1e-4
    test.add(random.random(500))
    assert not test.alarm
