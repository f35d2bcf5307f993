"""The images of a folder, as those that an artifact is compared on."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

if TYPE_CHECKING:
    from isogon.bundle import Bundle
    from isogon.runtimes import Pixels


def more_pixels(
    images: Path | None, bundle: "Bundle", progress: Progress
) -> "Pixels | None":
    """Return the images as the bundle's student sees them; what is unreadable is told.

    Raises:
        UsageError: there is no such folder, or nothing in it can be read.
    """
    from isogon.images import ImageFolder

    if images is None:
        return None
    preprocessing = bundle.manifest.preprocessing
    folder = ImageFolder.list(images).ranging(preprocessing.range)
    folder.say(progress)
    return folder.pixels(folder.readable(progress), preprocessing, progress)
