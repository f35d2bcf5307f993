"""Compare a candidate with the reference, on real images and at several batch sizes."""

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
from isogon.errors import CheckFailedError, UsageError, option
from isogon.images.collection import SAMPLES
from isogon.ood import Calibration
from isogon.parity import REPORT, Claim, ParityReport, ParityRun, with_parity
from isogon.progress import Progress
from isogon.runtimes import BatchProfile, Outputs, Pixels, Runner


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
    """Real pixels: in-distribution (familiar) images first, then out-of-distribution ones.

    The familiar ones also calibrate the detector.
    """

    pixels: Pixels
    familiar: int  # how many of the first are in-distribution
    alpha: float  # the false-alarm rate

    @classmethod
    def joined(
        cls, familiar: Pixels, *others: Pixels | None, alpha: float
    ) -> "ParityImages":
        """Return the familiar images, followed by the others that are not None."""
        present = [pixels for pixels in others if pixels is not None]
        return cls(
            pixels=np.concatenate([familiar, *present]),
            familiar=len(familiar),
            alpha=alpha,
        )

    @classmethod
    def of(cls, bundle: Bundle, extra: Pixels | None = None) -> "ParityImages":
        """Return the images held out for the detector in force, followed by `extra`."""
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
    """Return the unfamiliar images that training kept, or None."""
    return bundle.arrays(HELD_OUT).get("unfamiliar")


def quantisation_pixels(bundle: Bundle, extra: Pixels | None = None) -> Pixels:
    """Return real images for int8 that the gate does not use.

    These are images of the calibration site if the bundle was calibrated, else of the
    training set; then out-of-distribution ones, if training had more than parity
    needs. An older bundle holds no samples; then `extra` is returned.

    Raises:
        UsageError: the bundle has none, and no `extra` was given.
    """
    for name in (f"{SITE_DETECTOR}/{SAMPLES}", SAMPLES):
        if name in bundle:
            familiar: Pixels = bundle.arrays(name)["familiar"]
            others = bundle.arrays(SAMPLES) if SAMPLES in bundle else {}
            return np.concatenate([familiar, others.get("unfamiliar", familiar[:0])])
    if extra is not None:
        return extra
    raise UsageError(
        f"{bundle.path} holds no {SAMPLES}, which int8 needs to choose its ranges: an "
        f"older Isogon made it. Name similar images with {option('images', 'FOLDER')}, or "
        f"distil again."
    )


def batch_sizes(profile: BatchProfile) -> tuple[int, ...]:
    """Return the batch sizes to compare at: 1, 2, 7 and the three of the profile.

    Sizes outside the profile are left out; instead of 7 the nearest odd size that is
    allowed is taken.
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
    """Run `candidate` at every batch size and keep all its answers; judge nothing.

    Every batch is full: the last one is filled with images from the start, whose
    answers are dropped. So an engine sees only sizes of its profile, and a batch may
    be larger than the number of images.

    Args:
        reference: the reference's answers about the images.
        candidate: the runner of the artifact.
        images: the images that both are run on.
        progress: where to show progress.
        batch_sizes: see the function of that name.
        claim: which file this is, and which reference it should equal.

    Raises:
        UsageError: the reference's scores are not finite.
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
    """Rewrite the parity section of `report.html`, if the bundle has that page.

    Args:
        bundle: its state before this stage.
        stage: where the new reports are written.
        fresh: new reports; they replace older ones on the same artifacts.
        withdrawn: artifacts that leave the bundle and the page.

    Raises:
        BundleError: an earlier version wrote the report of another artifact.
    """
    if REPORT not in bundle:
        return
    page = bundle.file(REPORT).read_text(encoding="utf-8")
    gone = {*withdrawn, *(report.artifact for report in fresh)}
    others = parity_reports(bundle, leaving_out=gone)
    reports = sorted([*others, *fresh], key=lambda report: report.artifact)
    stage.also("evaluate").write(REPORT, with_parity(page, reports))
