"""How often a model flags images: familiar ones falsely, and unfamiliar ones rightly."""

from typing import Literal

import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict, Field

from isogon.bundle.evaluation import Evaluation
from isogon.bundle.fitted import REDUCTION, SITE_DETECTOR, detector_in_force
from isogon.bundle.store import Bundle

FALSE_ALARMS = "ood/false_alarms.json"
ServedDetector = Literal["same", "site", "reduced"]


class FalseAlarms(BaseModel):
    """The share of familiar images flagged that neither training nor calibration saw.

    The interval is Clopper and Pearson's (Biometrika, 1934), of 95 %.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(gt=0, lt=1)  # the false-alarm rate asked for
    images: int = Field(ge=1)
    flagged: int = Field(ge=0)
    rate: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)

    @classmethod
    def measured(cls, is_ood: Bool[np.ndarray, " n"], alpha: float) -> "FalseAlarms":
        """Return the record of decisions about at least one familiar image."""
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
    """Return what became of the detector that distillation measured.

    `same`: it is in force; `site`: `isogon calibrate` fitted another; `reduced`: `isogon
    export --bank` left it a smaller bank.
    """
    if detector_in_force(bundle) == SITE_DETECTOR:
        return "site"
    return "reduced" if REDUCTION in bundle else "same"


def measured_false_alarms(bundle: Bundle, alpha: float) -> FalseAlarms | None:
    """Return what distillation measured; None for another detector or rate than its."""
    if FALSE_ALARMS not in bundle or served_detector(bundle) != "same":
        return None
    found = bundle.record(FALSE_ALARMS, FalseAlarms)
    return found if found.alpha == alpha else None


def expected_rate(images: int, alpha: float) -> tuple[float, float]:
    """Return between which false-alarm rates a calibration lies, with a chance of 95 %.

    Its rate on familiar traffic follows Beta(k, n + 1 - k), where n images calibrate
    and p-values of the k largest scores are at most alpha, whatever the detector (Vovk,
    "Conditional validity of inductive conformal predictors", arXiv:1209.2673). Ties
    only lower it.
    """
    ranks = np.arange(1, images + 1)
    k = int(np.count_nonzero(ranks / (images + 1) <= alpha))
    if k == 0:
        return 0.0, 0.0
    above = images + 1 - k
    return beta_quantile(0.025, k, above), beta_quantile(0.975, k, above)


def beta_quantile(share: float, a: int, b: int) -> float:
    """Return the value below which Beta(a, b) has this share; whole a and b from 1 on.

    By bisection, since P(Beta(a, b) <= x) is the chance of at least `a` successes in
    a + b - 1 trials of chance x.
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


def detection_sentence(found: Evaluation) -> str | None:
    """Return how many of its unfamiliar images the student's detector flags.

    Near and far sets are counted apart: one is much harder than the other. None where
    it was not counted.
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


def _share(flagged: int, images: int) -> str:
    """Return whole percents: 100 % is all of them, and 0 % is none."""
    percents = round(100 * flagged / images)
    if percents == 0 and flagged:
        return "less than 1 %"
    if percents == 100 and flagged < images:
        return "more than 99 %"
    return f"{percents} %"
