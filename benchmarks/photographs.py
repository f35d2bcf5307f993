"""Real images for the benchmarks of artifacts, in the three roles a parity check needs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from distill.images.listing import open_source
from distill.images.samples import sample_images
from export.parity import ParityImages
from isogon.images import Preprocessing
from isogon.runtimes import Pixels

ALPHA = 0.05  # false alarms; 19 familiar images are enough for it
_UNFAMILIAR_SHARE = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Photographs:
    """Pixels of a bank, which also calibrates int8, and of others to compare on."""

    bank: Pixels
    images: ParityImages


def photographs(
    source: str | None, preprocessing: Preprocessing, folder: Path, *, compared: int
) -> Photographs:
    """Return half of the images as a bank, and `compared` of the others, or all of them.

    A quarter of these are shown inverted: real texture that no bank has. The same source
    gives the same pixels every time.

    Args:
        source: as in a recipe's `[data]`; None for scikit-image's and scikit-learn's.
        preprocessing: of the model.
        folder: where the packages' images are written, once.
        compared: images to compare on.
    """
    progress = Progress(disable=True)
    images = open_source(source or str(sample_images(folder / "images", progress)[1]))
    order = np.random.default_rng(0).permutation(len(images))
    bank, others = order[: len(order) // 2], order[len(order) // 2 :][:compared]
    pixels = images.pixels(others, preprocessing, progress)
    unfamiliar = int(_UNFAMILIAR_SHARE * len(others))
    return Photographs(
        bank=images.pixels(bank, preprocessing, progress),
        images=ParityImages.joined(
            pixels[unfamiliar:], 255 - pixels[:unfamiliar], alpha=ALPHA
        ),
    )
