"""How often a model flags images: the false-alarm rate, and the share it detects.

Familiar images are in-distribution, unfamiliar ones out-of-distribution (OOD).
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict, Field

from isogon.bundle.bundle import Bundle
from isogon.bundle.detector_in_force import (
    SITE_DETECTOR,
    detector_in_force,
    reduction_in_force,
)
from isogon.bundle.evaluation import Evaluation

FALSE_ALARMS = "ood/false_alarms.json"
ServedDetector = Literal["same", "site", "reduced"]


class FalseAlarms(BaseModel):
    """The false-alarm rate on familiar images that neither training nor calibration used.

    The 95 % interval is Clopper and Pearson's (Biometrika, 1934).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(gt=0, lt=1)  # the nominal false-alarm rate
    images: int = Field(ge=1)
    flagged: int = Field(ge=0)
    rate: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)

    @classmethod
    def measured(cls, is_ood: Bool[np.ndarray, " n"], alpha: float) -> "FalseAlarms":
        """Return the record for the decisions about familiar images, at least one."""
        images, flagged = len(is_ood), int(is_ood.sum())
        passed = images - flagged
        return cls(
            alpha=alpha,
            images=images,
            flagged=flagged,
            rate=flagged / images,
            low=beta_quantile(0.025, flagged, passed + 1) if flagged else 0.0,
            high=beta_quantile(0.975, flagged + 1, passed) if passed else 1.0,
        )


def served_detector(bundle: Bundle) -> ServedDetector:
    """Return how the detector in force relates to the one that distillation measured.

    `same`: it is that one; `site`: `isogon calibrate` has fitted another; `reduced`:
    `isogon export --bank` has reduced its bank.
    """
    folder = detector_in_force(bundle)
    if folder == SITE_DETECTOR:
        return "site"
    return "same" if reduction_in_force(bundle, folder) is None else "reduced"


def measured_false_alarms(bundle: Bundle, alpha: float) -> FalseAlarms | None:
    """Return what distillation measured; None if detector or alpha is another now."""
    if FALSE_ALARMS not in bundle or served_detector(bundle) != "same":
        return None
    found = bundle.record(FALSE_ALARMS, FalseAlarms)
    return found if found.alpha == alpha else None


def expected_rate(images: int, alpha: float) -> tuple[float, float]:
    """Return the 95 % interval of the false-alarm rate, given the calibration's size.

    For any detector, the rate on familiar traffic follows Beta(k, n + 1 - k): n is the
    number of calibration images, and the k largest of their scores have p-values of at
    most alpha (Vovk, "Conditional validity of inductive conformal predictors",
    arXiv:1209.2673). Ties only lower the rate.
    """
    ranks = np.arange(1, images + 1)
    k = int(np.count_nonzero(ranks / (images + 1) <= alpha))
    if k == 0:
        return 0.0, 0.0
    above = images + 1 - k
    return beta_quantile(0.025, k, above), beta_quantile(0.975, k, above)


def detection_sentence(found: Evaluation) -> str | None:
    """Return a sentence on how many unfamiliar images the student's detector flags.

    Near and far sets are counted separately, because near sets are much harder. None if
    nothing was counted.
    """
    counted: dict[str, tuple[int, int]] = {}
    for one in found.unfamiliar.values():
        if one.flagged is not None:
            flagged, images = counted.get(one.kind, (0, 0))
            counted[one.kind] = flagged + one.flagged, images + one.images
    if not counted:
        return None
    if len(counted) == 1:
        ((flagged, images),) = counted.values()
        return f"Flags {_share(flagged, images)} of {images:,} unfamiliar images."
    (far, of_far), (near, of_near) = counted["far"], counted["near"]
    return (
        f"Flags {_share(far, of_far)} of {of_far:,} far and {_share(near, of_near)} of "
        f"{of_near:,} near unfamiliar images."
    )


def beta_quantile(share: float, a: int, b: int) -> float:
    """Return the quantile `share` of Beta(a, b), for integers a and b of at least 1.

    It is found by bisection: P(Beta(a, b) <= x) is the probability of at least `a`
    successes in a + b - 1 trials with success probability x.
    """
    trials = a + b - 1
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    successes = np.arange(a, trials + 1)
    choices = logs[trials] - logs[successes] - logs[trials - successes]
    low, high = 0.0, 1.0
    for _ in range(60):
        x = (low + high) / 2
        terms = choices + successes * np.log(x) + (trials - successes) * np.log1p(-x)
        if np.exp(terms).sum() < share:
            low = x
        else:
            high = x
    return (low + high) / 2


def _share(flagged: int, images: int) -> str:
    """Return the share in whole percent; 100 % only for all, 0 % only for none."""
    percents = round(100 * flagged / images)
    if percents == 0 and flagged:
        return "less than 1 %"
    if percents == 100 and flagged < images:
        return "more than 99 %"
    return f"{percents} %"
