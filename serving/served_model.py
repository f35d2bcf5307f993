"""A served model: one vouched artifact, checked on this machine before it answers."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import UInt8

from isogon.bundle import (
    TRAINING_DETECTOR,
    Artifact,
    Bundle,
    FalseAlarms,
    Manifest,
    Race,
    ServedDetector,
    Thumbnails,
    detector_spec,
    expected_rate,
    measured_false_alarms,
    proven_artifact,
    served_detector,
)
from isogon.bundle.evaluation import EVALUATION, Evaluation
from isogon.errors import BundleError
from isogon.images import DecodingCost, decode
from isogon.ood import Calibration
from isogon.runtimes import Device, How, Runner
from serving.settings import Settings

_log = logging.getLogger("isogon.serving")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """A bundle's evaluation of its student and detector."""

    evaluation: Evaluation
    alpha: float  # the false-alarm rate at which unfamiliar images were flagged
    detector: ServedDetector  # whether the measured detector answers, or another one

    @classmethod
    def of(cls, bundle: Bundle) -> Self | None:
        """Return the evaluation; None if the bundle has none that this version can read.

        The figures are only shown, so a bundle without them is served too.
        """
        if EVALUATION not in bundle:
            return None
        try:
            evaluation = bundle.record(EVALUATION, Evaluation)
            alpha = detector_spec(bundle, TRAINING_DETECTOR).alpha
        except BundleError as error:
            _log.warning("Served without its evaluation: %s", error)
            return None
        return cls(evaluation=evaluation, alpha=alpha, detector=served_detector(bundle))


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A loaded model, shared by all requests; it never changes."""

    name: str
    bundle: Bundle
    artifact: Artifact
    calibration: Calibration
    runner: Runner
    thumbnails: Thumbnails | None  # of reference images, if the bundle has them
    settings: Settings
    expected_rate: tuple[float, float]  # 95 % interval of the false-alarm rate
    false_alarms: FalseAlarms | None  # measured at this alpha; None: not measured
    evaluated: Evaluated | None  # None: the bundle has no readable evaluation

    @classmethod
    def load(cls, path: Path, settings: Settings, name: str | None = None) -> Self:
        """Open the bundle, check everything, and return the model, ready to answer.

        Args:
            path: the bundle's directory, or a link to it.
            settings: what to run, and within which limits.
            name: the name for requests; None: the bundle's.

        Raises:
            BundleError: the bundle is damaged, or nothing vouches for its artifact.
            CheckFailedError: the golden images give other outputs than they should.
            UsageError: this calibration has too few images for `settings.alpha`.
        """
        # A link that is changed meanwhile would mix two bundles.
        bundle = Bundle.open(path.resolve())
        how = How(
            threads=settings.threads,
            device=Device.parse(settings.device),
            graphs=settings.cuda_graphs,
        )
        report = partial(_log_race, bundle.manifest.name)
        artifact, runner = proven_artifact(bundle, settings.artifact, how, report=report)
        calibration = artifact.calibration
        if settings.alpha is not None:
            scores = np.array(calibration.scores)
            calibration = Calibration.from_scores(scores, settings.alpha)
        return cls(
            name=bundle.manifest.name if name is None else name,
            bundle=bundle,
            artifact=artifact,
            calibration=calibration,
            runner=runner,
            thumbnails=Thumbnails.in_force(bundle),
            settings=settings,
            expected_rate=expected_rate(len(calibration.scores), calibration.alpha),
            false_alarms=measured_false_alarms(bundle, calibration.alpha),
            evaluated=Evaluated.of(bundle),
        )

    @property
    def manifest(self) -> Manifest:
        """The bundle's table of contents."""
        return self.bundle.manifest

    def pixels(
        self, data: bytes, admit: Callable[[DecodingCost], None] | None = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Return the pixels of an encoded image, preprocessed for the runner.

        Args:
            data: the file.
            admit: as of `isogon.images.decode`.

        Raises:
            ImageError: it does not decode, or exceeds a limit.
        """
        preprocessing = self.manifest.preprocessing
        image = decode(
            data, self.settings.image_limits, samples=preprocessing.range, admit=admit
        )
        return preprocessing.pixels(image)


def _log_race(name: str, found: Race) -> None:
    _log.info("Fastest of %s: %s", name, found)
    for name, reason in found.passed_over.items():
        _log.info("Not measured: %s. %s", name, reason)
