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
class Limits:
    """What the service takes, as its model card says."""

    images: int  # in one request
    body_bytes: int
    image_bytes: int  # of one encoded image
    image_pixels: int  # width x height


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The images of one request."""

    start: int  # which of all images is the first
    images: list[bytes]  # encoded


def batches(images: Sequence[Image], limits: Limits) -> Iterator[Batch]:
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
        encoded = _encoded(image, limits)
        size += len(encoded) + _PART
        if batch and (len(batch) == limits.images or size > limits.body_bytes):
            yield Batch(start=number - len(batch), images=batch)
            batch, size = [], len(encoded) + _PART
        batch.append(encoded)
    if batch:
        yield Batch(start=len(images) - len(batch), images=batch)


def _encoded(image: Image, limits: Limits) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, Path):
        return image.read_bytes()
    if not hasattr(image, "getexif"):
        raise TypeError(
            f"Expected an encoded image as bytes, a pathlib.Path or an image of Pillow's, "
            f"got {type(image).__name__}. Pillow's Image.fromarray makes one of an array."
        )
    return _fitting(_writable(image), limits)


def _fitting(image: "PillowImage.Image", limits: Limits) -> bytes:
    """Encode the pixels: as PNG, as a fine JPEG if that is too large, or else smaller.

    The orientation in EXIF is left out: it told how to turn the file's pixels.
    """
    room = min(limits.image_bytes, limits.body_bytes - _PART)
    while True:
        excess = image.width * image.height / limits.image_pixels
        if excess > 1:
            image = _shrunk(image, excess**-0.5)
        encoded = _saved(image, "PNG", compress_level=1)
        if len(encoded) > room and image.mode in ("L", "RGB"):
            encoded = _saved(image, "JPEG", quality=95, subsampling=0)
        if len(encoded) <= room or image.size == (1, 1):
            return encoded
        image = _shrunk(image, 0.5)


def _saved(image: "PillowImage.Image", kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    # The colour profile says which colours the pixels are.
    image.save(buffer, kind, icc_profile=image.info.get("icc_profile"), **options)
    return buffer.getvalue()


def _shrunk(image: "PillowImage.Image", ratio: float) -> "PillowImage.Image":
    if image.mode in ("1", "P"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    size = max(1, int(image.width * ratio)), max(1, int(image.height * ratio))
    return image.resize(size)


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
