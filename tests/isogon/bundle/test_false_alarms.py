import numpy as np
import pytest
from scipy import stats

from isogon.bundle import FalseAlarms, expected_rate
from isogon.bundle.false_alarms import beta_quantile
from isogon.ood import Calibration


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 500), (13, 258), (500, 1), (3000, 9)])
@pytest.mark.parametrize("share", [0.025, 0.5, 0.975])
def test_beta_quantiles_are_scipys(a: int, b: int, share: float) -> None:
    assert beta_quantile(share, a, b) == pytest.approx(
        stats.beta.ppf(share, a, b), rel=1e-9
    )


@pytest.mark.parametrize(("flagged", "images"), [(0, 36), (1, 36), (36, 36), (250, 5000)])
def test_the_interval_is_clopper_and_pearsons(flagged: int, images: int) -> None:
    found = FalseAlarms.measured(np.arange(images) < flagged, 0.05)
    interval = stats.binomtest(flagged, images).proportion_ci(method="exact")
    assert (found.images, found.flagged, found.rate) == (images, flagged, flagged / images)
    assert (found.low, found.high) == pytest.approx(tuple(interval), rel=1e-9)


@pytest.mark.parametrize(("images", "alpha"), [(19, 0.05), (270, 0.05), (99, 0.2)])
def test_95_percent_of_calibrations_have_the_expected_rate(
    images: int, alpha: float
) -> None:
    generator = np.random.default_rng(0)
    low, high = expected_rate(images, alpha)
    inside = []
    for _ in range(2000):
        calibration = Calibration.from_scores(generator.uniform(size=images), alpha)
        # Uniform scores: the rate is the length of what is flagged.
        scores = np.array(calibration.scores)
        flagged = scores[calibration.is_ood(np.nextafter(scores, 1))]
        inside.append(low <= 1 - flagged.min() <= high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_too_few_images_to_flag_have_no_false_alarms() -> None:
    assert expected_rate(10, 0.05) == (0.0, 0.0)
