"""Run a candidate beside the reference, on real images and at several batch sizes."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool
from rich.progress import Progress

from bundle import (
    Bundle,
    Calibration,
    CheckFailedError,
    Figures,
    Outputs,
    ParityReport,
    Runner,
    UsageError,
    figures,
)
from bundle.runners import Pixels
from export.graph import SITE_DETECTOR, detector_in_force, detector_spec

BATCH_SIZES = (1, 2, 7)
HELD_OUT = "held_out.safetensors"


class ParityFailedError(CheckFailedError):
    """An artifact does not compute what the reference computes."""

    def __init__(self, report: ParityReport, consequence: str) -> None:
        super().__init__(
            f"{report.artifact} on {report.candidate} is not equal to "
            f"{report.reference}: {'; '.join(report.failures)}. {consequence}"
        )
        self.report = report


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityImages:
    """Real pixels: familiar ones, which also calibrate, then unfamiliar ones."""

    pixels: Pixels
    familiar: int
    alpha: float

    @classmethod
    def joined(
        cls, familiar: Pixels, *others: Pixels | None, alpha: float
    ) -> "ParityImages":
        """Return the familiar images with whichever others there are behind them."""
        present = [pixels for pixels in others if pixels is not None]
        return cls(
            pixels=np.concatenate([familiar, *present]),
            familiar=len(familiar),
            alpha=alpha,
        )

    @classmethod
    def of(cls, bundle: Bundle, extra: Pixels | None = None) -> "ParityImages":
        """Return the images held out for the detector in force, and `extra` ones."""
        folder = detector_in_force(bundle)
        on_site = folder == SITE_DETECTOR
        held_out = f"{folder}/{HELD_OUT}" if on_site else HELD_OUT
        return cls.joined(
            bundle.arrays(held_out)["familiar"],
            unfamiliar_pixels(bundle),
            extra,
            alpha=detector_spec(bundle, folder).alpha,
        )

    def calibrate(self, outputs: Outputs) -> Calibration | None:
        """Return the calibration of a runner's own scores; None if they are not finite.

        Raises:
            UsageError: there are too few images for alpha.
        """
        scores = outputs.ood_scores[: self.familiar]
        if not np.isfinite(scores).all():
            return None
        return Calibration.from_scores(scores, self.alpha)


def unfamiliar_pixels(bundle: Bundle) -> Pixels | None:
    """Return the unfamiliar images kept in training, where there were any."""
    return bundle.arrays(HELD_OUT).get("unfamiliar")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a run of a candidate showed; judging it is `ParityReport`'s."""

    figures: Figures
    calibration: Calibration | None


def measure(
    reference: Outputs,
    candidate: Runner,
    images: ParityImages,
    progress: Progress,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
) -> Measured:
    """Run `candidate` at every batch size; keep the worst figures.

    Raises:
        UsageError: the reference's own scores allow no calibration.
    """
    expected = images.calibrate(reference)
    if expected is None:
        raise UsageError(
            "The reference's OOD scores are not finite; its weights or its detector "
            "are broken. Distil again."
        )
    worst, calibration = Figures.none(), None
    for size in batch_sizes:
        outputs = candidate.run_all(
            images.pixels,
            size,
            partial(progress.track, description=f"Parity at batch {size}"),
        )
        calibration = images.calibrate(outputs)
        found = figures(
            reference,
            outputs,
            reference_is_ood=expected.is_ood(reference.ood_scores),
            candidate_is_ood=_decisions(calibration, outputs),
        )
        worst = worst.worst(found)
    return Measured(figures=worst, calibration=calibration)


def _decisions(calibration: Calibration | None, outputs: Outputs) -> Bool[np.ndarray, " b"]:
    if calibration is None:
        return np.ones(len(outputs), dtype=bool)
    return calibration.is_ood(outputs.ood_scores)
