"""Images for the service: encoded, and divided into requests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Pillow is needed only for Pillow's images
    from PIL import Image as PillowImage

    Image = bytes | Path | PillowImage.Image
else:
    Image = object

_PART = 256  # the most bytes of a form for each image, besides the image


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceLimits:
    """The service's limits, as in its model card."""

    images: int  # in one request
    body_bytes: int
    image_bytes: int  # of one encoded image
    image_pixels: int  # width x height


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestImages:
    """The images of one request."""

    start: int  # index of the first one among all images
    images: list[bytes]  # encoded


def split_into_requests(
    images: Sequence[Image], limits: ServiceLimits
) -> Iterator[RequestImages]:
    """Yield the images in as few requests as the limits allow; files are read when needed.

    Raises:
        TypeError: `images` is not a sequence, or an item is not an image.
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
            yield RequestImages(start=number - len(batch), images=batch)
            batch, size = [], len(encoded) + _PART
        batch.append(encoded)
    if batch:
        yield RequestImages(start=len(images) - len(batch), images=batch)


def _encoded(image: Image, limits: ServiceLimits) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, Path):
        return image.read_bytes()
    if not hasattr(image, "getexif"):
        raise TypeError(
            f"Expected an encoded image as bytes, a pathlib.Path or an image of Pillow's, "
            f"got {type(image).__name__}. Pillow's Image.fromarray converts an array."
        )
    return _fitting(image, limits)


def _fitting(image: "PillowImage.Image", limits: ServiceLimits) -> bytes:
    """Encode the pixels: losslessly; else as JPEG of quality 95; else scaled down.

    An image that is only opened is sent as its file, if that is within the limits.
    """
    from isogon.images.in_memory import file_of, saved, storable, without_loss

    room = min(limits.image_bytes, limits.body_bytes - _PART)
    if image.width * image.height <= limits.image_pixels:
        opened = file_of(image)
        if opened is not None and len(opened) <= room:
            return opened
    image = storable(image)
    while True:
        excess = image.width * image.height / limits.image_pixels
        if excess > 1:
            image = _shrunk(image, excess**-0.5)
        kind = without_loss(image)
        options = {"compress_level": 1} if kind == "PNG" else {}
        encoded = saved(image, kind, **options)
        if len(encoded) > room and image.mode in ("L", "RGB", "CMYK"):
            encoded = saved(image, "JPEG", quality=95, subsampling=0)
        if len(encoded) <= room or image.size == (1, 1):
            return encoded
        image = _shrunk(image, 0.5)


def _shrunk(image: "PillowImage.Image", ratio: float) -> "PillowImage.Image":
    if image.mode in ("1", "P"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    size = max(1, int(image.width * ratio)), max(1, int(image.height * ratio))
    return image.resize(size)
