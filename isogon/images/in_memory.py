"""Images in memory, written as files without loss, in any mode of Pillow's.

So the decoder, here or in a service, treats them like any other file.
"""

from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from isogon.images.formats import image_format
from isogon.images.sample_range import is_deep
from isogon.images.tiff import mend

# Modes that no file has -> the mode they are converted to.
_BECOMES = {
    **{"RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB"},
    **{"RGBa": "RGBA", "PA": "RGBA", "La": "LA"},
}
_SIXTEEN = frozenset({"I;16B", "I;16L", "I;16N"})  # I;16 with another byte order
_IN_TIFF = frozenset({"CMYK", "LAB", "F", "I"})  # the other modes fit in a PNG

# TIFF's tags of the range of deep samples, and their key in an image's `info`.
_RANGE, _TOLD = (280, 281, 340, 341), "isogon.range"
_BITS, _MOST, _ZERO_IS = 258, 281, 262  # 0 is white (0) or black (1)


def file_of(image: Image.Image) -> bytes | None:
    """Return the file of an image that Pillow has opened, but not loaded; None for others.

    So it is decoded like its file. Afterwards Pillow can still load it. None also for a
    format that Pillow decodes and Isogon does not.
    """
    if not isinstance(image, ImageFile) or image.tell():
        return None
    loaded = not image.tile and getattr(image, "_im", None) is not None
    if loaded or getattr(image, "decoderconfig", None):  # the latter: scaled by `draft`
        return None
    file = image.fp
    if file is None or getattr(file, "closed", False):
        return None
    place = file.tell()
    try:
        file.seek(0)
        data = file.read()
    finally:
        file.seek(place)
    return data if image_format(data) else None


def storable(image: Image.Image) -> Image.Image:
    """Return the image in a mode that a file can have.

    An image that Pillow has opened is turned by its EXIF. An image that was made in
    memory is taken as it is.
    """
    in_ppm = image.mode == "I" and image.format == "PPM"  # 16 bits, by the format
    if isinstance(image, TiffImageFile) and image.tile:
        mend(image)
    if isinstance(image, ImageFile):
        told = _range_tags(image) if isinstance(image, TiffImageFile) else {}
        image = ImageOps.exif_transpose(image)  # a copy
        image.info[_TOLD] = told
    if image.mode in _BECOMES:
        return image.convert(_BECOMES[image.mode])
    if image.mode in _SIXTEEN or in_ppm:
        info, samples = image.info, np.asarray(image).astype(np.uint16)
        image = Image.fromarray(samples)
        image.info = info
    return image


def without_loss(image: Image.Image) -> Literal["PNG", "TIFF"]:
    """Return the format that a storable image fits in, with the range of its samples."""
    return "TIFF" if image.mode in _IN_TIFF or image.info.get(_TOLD) else "PNG"


def saved(
    image: Image.Image, kind: Literal["PNG", "TIFF", "JPEG"], **options: Any
) -> bytes:
    """Return the file of a storable image: its pixels, their profile, and no EXIF."""
    if kind == "TIFF":
        options["tiffinfo"] = image.info.get(_TOLD) or {}
        options["compression"] = "raw"  # else that of the opened file, which may be JPEG's
    buffer = BytesIO()
    image.save(buffer, kind, icc_profile=image.info.get("icc_profile"), exif=b"", **options)
    return buffer.getvalue()


def _range_tags(image: TiffImageFile) -> dict[int, Any]:
    """Return the tags that say what the samples of a deep image mean."""
    if not is_deep(image):
        return {}
    tags = image.tag_v2
    found = {tag: tags[tag] for tag in _RANGE if tag in tags}
    bits = tags.get(_BITS, (16,))[0]
    if 8 < bits < 16:
        found.setdefault(_MOST, 2**bits - 1)
    if tags.get(_ZERO_IS) == 0:
        found[_ZERO_IS] = 0
    return found
