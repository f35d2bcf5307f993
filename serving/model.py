"""The served model: one vouched artifact, proven on this machine before it answers."""

import os
from dataclasses import dataclass
from typing import Self

import anyio
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bundle import (
    Artifact,
    Bundle,
    Calibration,
    ImageError,
    Manifest,
    Outputs,
    Runner,
    decode,
    open_runner,
    require_golden,
    vouched_artifact,
)
from serving.problems import ProblemError
from serving.schemas import Ood
from serving.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What every request shares; nothing in it changes."""

    manifest: Manifest
    artifact: Artifact
    calibration: Calibration
    runner: Runner
    settings: Settings
    slots: anyio.CapacityLimiter  # bounds the memory of decoding and the runs at once

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Open the bundle, check everything, and return the model ready to answer.

        Raises:
            BundleError: the bundle is damaged, or nothing vouches for its artifact.
            CheckFailedError: the golden images do not come out as they should.
            UsageError: `settings.alpha` cannot be promised with this calibration.
        """
        bundle = Bundle.open(settings.bundle)
        artifact = vouched_artifact(bundle, settings.artifact)
        runner = open_runner(bundle, artifact, threads=settings.threads)
        require_golden(bundle, artifact, runner)
        calibration = artifact.calibration
        if settings.alpha is not None:
            scores = np.array(calibration.scores)
            calibration = Calibration.from_scores(scores, settings.alpha)
        return cls(
            manifest=bundle.manifest,
            artifact=artifact,
            calibration=calibration,
            runner=runner,
            settings=settings,
            slots=anyio.CapacityLimiter(os.cpu_count() or 1),
        )

    async def answer(self, images: list[bytes]) -> Outputs:
        """Decode every image on its own, then run those of the request together.

        Raises:
            ProblemError: an image is refused; its index is named, no other request
                is affected.
        """
        # One at a time: the slots then go round between requests, whatever their size.
        pixels = np.stack(
            [await self._decoded(image, index) for index, image in enumerate(images)]
        )
        return await anyio.to_thread.run_sync(self.runner.run, pixels, limiter=self.slots)

    def decisions(self, outputs: Outputs) -> list[Ood]:
        """Return score, p-value and decision of each image."""
        p_values = self.calibration.p_values(outputs.ood_scores)
        return [
            Ood(
                score=float(score),
                p_value=float(p_value),
                is_ood=bool(p_value <= self.calibration.alpha),
            )
            for score, p_value in zip(outputs.ood_scores, p_values, strict=True)
        ]

    async def _decoded(self, data: bytes, index: int) -> UInt8[np.ndarray, "h w 3"]:
        try:
            return await anyio.to_thread.run_sync(self._pixels, data, limiter=self.slots)
        except ImageError as error:
            raise ProblemError.of_image(error, index) from error

    def _pixels(self, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
        image: Image.Image = decode(data, self.settings.image_limits)
        return self.manifest.preprocessing.pixels(image)
