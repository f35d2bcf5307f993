"""Run a candidate beside the reference, on real images and at several batch sizes."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from isogon.bundle import (
    HELD_OUT,
    SITE_DETECTOR,
    Bundle,
    StageWriter,
    detector_in_force,
    detector_spec,
    held_out_for,
    parity_reports,
)
from isogon.errors import CheckFailedError, UsageError
from isogon.images.collection import SAMPLES
from isogon.ood import Calibration
from isogon.parity import REPORT, Claim, ParityReport, ParityRun, with_parity
from isogon.progress import Progress
from isogon.runtimes import BatchProfile, Outputs, Pixels, Runner


def quantisation_pixels(bundle: Bundle, extra: Pixels | None = None) -> Pixels:
    """Return images that the student learnt from, or the site's where it has its own.

    Behind them come unfamiliar ones, where training had more than parity needs.
    A bundle that is older than its samples gives `extra`, the images named beside it.

    Raises:
        UsageError: it has none, and none were named.
    """
    for name in (f"{SITE_DETECTOR}/{SAMPLES}", SAMPLES):
        if name in bundle:
            familiar: Pixels = bundle.arrays(name)["familiar"]
            others = bundle.arrays(SAMPLES) if SAMPLES in bundle else {}
            return np.concatenate([familiar, others.get("unfamiliar", familiar[:0])])
    if extra is not None:
        return extra
    raise UsageError(
        f"{bundle.path} holds no {SAMPLES}, on which the ranges of int8 are chosen: an "
        f"older Isogon made it. Name images of its kind with `--images FOLDER`, or distil "
        f"again."
    )


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
        return cls.joined(
            bundle.arrays(held_out_for(folder))["familiar"],
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


def batch_sizes(profile: BatchProfile) -> tuple[int, ...]:
    """Return the batch sizes to compare at: 1, 2, 7 and the three of the profile.

    Those that the profile does not allow are left out; in place of 7 comes the odd
    size next to it that it does allow.
    """
    smallest, largest = profile.minimum, profile.maximum
    odd = min(max(7, smallest | 1), largest - 1 + largest % 2)
    sizes = {1, 2, odd, smallest, profile.optimum, largest}
    return tuple(sorted(size for size in sizes if smallest <= size <= largest))


BATCH_SIZES = batch_sizes(BatchProfile())


def measure(
    reference: Outputs,
    candidate: Runner,
    images: ParityImages,
    progress: Progress,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    *,
    claim: Claim,
) -> ParityRun:
    """Run `candidate` at every batch size and keep all it answers; judge nothing.

    Every batch is whole: the last one is filled with images from the start, whose
    answers are dropped. So an engine sees only sizes of its profile, and a batch
    larger than the images are many is one nevertheless.

    Args:
        reference: the reference's answers about the images.
        candidate: what runs the artifact.
        images: what both were asked.
        progress: where to show progress.
        batch_sizes: at which to run; see the function of that name.
        claim: which file this is, and what it is said to equal.

    Raises:
        UsageError: the reference's own scores allow no calibration.
    """
    if images.calibrate(reference) is None:
        raise UsageError(
            "The reference's OOD scores are not finite; its weights or its detector "
            "are broken. Distil again."
        )
    sizes = sorted(set(batch_sizes))
    who = f"Parity of {claim.precision}"
    shown = [*(f"{who} at batch {size}" for size in sizes), f"{who}, once more"]
    *answers, again = (
        _in_whole_batches(
            candidate, images.pixels, size, partial(progress.track, description=description)
        )
        for size, description in zip([*sizes, sizes[-1]], shown, strict=True)
    )
    return ParityRun(
        claim=claim,
        candidate=candidate.name,
        familiar=images.familiar,
        alpha=images.alpha,
        expected=reference,
        answers=dict(zip(sizes, answers, strict=True)),
        again=again,
        repeated=candidate.run(images.pixels[[0] * sizes[-1]]),
    )


def _in_whole_batches(
    candidate: Runner,
    pixels: Pixels,
    size: int,
    track: Callable[[Sequence[int]], Iterable[int]],
) -> Outputs:
    batches = [
        candidate.run(pixels.take(range(start, start + size), axis=0, mode="wrap"))
        for start in track(range(0, len(pixels), size))
    ]
    return Outputs(
        embeddings=np.concatenate([batch.embeddings for batch in batches])[: len(pixels)],
        ood_scores=np.concatenate([batch.ood_scores for batch in batches])[: len(pixels)],
    )


def show_parity(
    bundle: Bundle,
    stage: StageWriter,
    fresh: Sequence[ParityReport],
    withdrawn: Collection[str] = (),
) -> None:
    """Rewrite the section on parity of `report.html`, where the bundle has that page.

    Args:
        bundle: as it was before this stage.
        stage: where the fresh reports are written.
        fresh: they take the place of older reports on the same artifacts.
        withdrawn: artifacts that leave the bundle, and the page.

    Raises:
        BundleError: the report of another artifact is of an earlier version.
    """
    if REPORT not in bundle:
        return
    page = bundle.file(REPORT).read_text(encoding="utf-8")
    gone = {*withdrawn, *(report.artifact for report in fresh)}
    others = parity_reports(bundle, leaving_out=gone)
    reports = sorted([*others, *fresh], key=lambda report: report.artifact)
    stage.also("evaluate").write(REPORT, with_parity(page, reports))
