"""Images on their way to the service: encoded, and divided into requests."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # only those who have pictures need Pillow
    from PIL import Image as PillowImage

    Image = bytes | Path | PillowImage.Image
else:
    Image = object

_PART = 256  # bytes that a form spends on each image, at most
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The images of one request."""

    start: int  # which of all images is the first
    images: list[bytes]  # encoded


def batches(
    images: Sequence[Image], *, most_images: int, most_bytes: int
) -> Iterator[Batch]:
    """Yield the images in requests that are as large as may be; files are read late."""
    batch: list[bytes] = []
    size = 0
    for number, image in enumerate(images):
        encoded = _encoded(image)
        size += len(encoded) + _PART
        if batch and (len(batch) == most_images or size > most_bytes):
            yield Batch(start=number - len(batch), images=batch)
            batch, size = [], len(encoded) + _PART
        batch.append(encoded)
    if batch:
        yield Batch(start=len(images) - len(batch), images=batch)


def _encoded(image: Image) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, Path):
        return image.read_bytes()
    buffer = io.BytesIO()
    writable = image if image.mode in _PNG_MODES else image.convert("RGB")
    # Pillow leaves the orientation out, unless it is told.
    writable.save(buffer, "PNG", exif=image.getexif(), compress_level=1)
    return buffer.getvalue()
