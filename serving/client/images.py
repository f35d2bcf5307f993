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
_WITH_ALPHA = frozenset({"La", "PA", "RGBa"})
_COLOURS = frozenset({"CMYK", "HSV", "LAB", "RGBX", "YCbCr"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The images of one request."""

    start: int  # which of all images is the first
    images: list[bytes]  # encoded


def batches(
    images: Sequence[Image], *, most_images: int, most_bytes: int
) -> Iterator[Batch]:
    """Yield the images in requests that are as large as may be; files are read late.

    Raises:
        TypeError: what is given is no sequence, or something in it no image.
        ValueError: an image of Pillow's holds numbers that are no colours.
    """
    if isinstance(images, bytes | str | Path) or not hasattr(images, "__len__"):
        raise TypeError(
            f"Expected a list of images, got one {type(images).__name__}. Put it in a list."
        )
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
    if not hasattr(image, "getexif"):
        raise TypeError(
            f"Expected an encoded image as bytes, a pathlib.Path or an image of Pillow's, "
            f"got {type(image).__name__}. Pillow's Image.fromarray makes one of an array."
        )
    buffer = io.BytesIO()
    # Pillow leaves the orientation out, unless it is told.
    _writable(image).save(buffer, "PNG", exif=image.getexif(), compress_level=1)
    return buffer.getvalue()


def _writable(image: "PillowImage.Image") -> "PillowImage.Image":
    if image.mode in _PNG_MODES:
        return image
    if image.mode in _WITH_ALPHA:
        return image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in _COLOURS:
        return image.convert("RGB")
    raise ValueError(
        f"An image of Pillow's mode {image.mode!r} holds numbers whose range nothing says. "
        f"Scale them to 8 bits first, for example by Image.fromarray of uint8."
    )
