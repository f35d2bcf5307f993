"""How many unfamiliar images the artifact in force flags."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rich.progress import Progress

from export.parity import unfamiliar_pixels
from isogon.bundle import Bundle, vouched_artifact
from isogon.images import open_images
from isogon.runtimes import OnnxRunner

_BATCH = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """What the float32 file decides about images that it should not know."""

    where: str  # the images
    images: int
    flagged: int
    alpha: float  # the false-alarm rate at which it decides

    @property
    def sentence(self) -> str:
        """The figures in a sentence."""
        share = f"{self.flagged / self.images:.0%}"
        return (
            f"Flags {self.flagged:,} of {self.images:,} ({share}) unfamiliar images, those "
            f"of {self.where}, at alpha = {self.alpha:g}."
        )

    def as_document(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return asdict(self)


def detection(
    bundle: Bundle, progress: Progress, *, unfamiliar: str | None = None
) -> Detection | None:
    """Ask the bundle's float32 ONNX file about unfamiliar images.

    Args:
        bundle: an exported bundle.
        progress: where to show progress, and which images cannot be read.
        unfamiliar: where they are; None: those that the bundle keeps from training.

    Returns:
        The figures; None where the bundle keeps no such images and none are named.

    Raises:
        UsageError: no images are there.
        UnvouchedArtifactError: the bundle has no such file.
    """
    artifact = vouched_artifact(bundle)
    if unfamiliar is None:
        pixels, where = unfamiliar_pixels(bundle), "the bundle"
    else:
        images = open_images(unfamiliar)
        readable = images.readable(progress)
        pixels = images.pixels(readable, bundle.manifest.preprocessing, progress)
        where = images.where
    if pixels is None:
        return None
    scores = (
        OnnxRunner(artifact.path)
        .run_all(pixels, _BATCH, partial(progress.track, description="Detecting"))
        .ood_scores
    )
    return Detection(
        where=where,
        images=len(scores),
        flagged=int(artifact.calibration.is_ood(scores).sum()),
        alpha=artifact.calibration.alpha,
    )
