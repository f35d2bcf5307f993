"""Images in memory: each of Pillow's modes as a file that holds its pixels without loss.

The decoder, here or a service's, then treats them as it treats any file.
"""

from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from isogon.images.tiff import mend_planes

# Modes that no file holds: what they become.
_BECOMES = {
    **{"RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB"},
    **{"RGBa": "RGBA", "PA": "RGBA", "La": "LA"},
}
_SIXTEEN = frozenset({"I;16B", "I;16L", "I;16N"})  # I;16 with its bytes in another order
_IN_TIFF = frozenset({"CMYK", "LAB", "F", "I"})  # a PNG holds the rest

# TIFF's tags that say what deep samples range over, and where an image's `info` has them.
_RANGE, _TOLD = (280, 281, 340, 341), "isogon.range"


def storable(image: Image.Image) -> Image.Image:
    """Return the image in a mode that a file holds.

    What Pillow has only opened is its file, which EXIF may turn; what was made of it in
    memory means its pixels.
    """
    in_ppm = image.mode == "I" and image.format == "PPM"  # of 16 bits, says the format
    if isinstance(image, TiffImageFile):
        mend_planes(image)
    if isinstance(image, ImageFile):
        tags = getattr(image, "tag_v2", {})
        image = ImageOps.exif_transpose(image)  # a copy
        image.info[_TOLD] = {tag: tags[tag] for tag in _RANGE if tag in tags}
    if image.mode in _BECOMES:
        return image.convert(_BECOMES[image.mode])
    if image.mode in _SIXTEEN or in_ppm:
        info, samples = image.info, np.asarray(image).astype(np.uint16)
        image = Image.fromarray(samples)
        image.info = info
    return image


def without_loss(image: Image.Image) -> Literal["PNG", "TIFF"]:
    """Return the format that holds a storable image, with what its samples range over."""
    return "TIFF" if image.mode in _IN_TIFF or image.info.get(_TOLD) else "PNG"


def saved(
    image: Image.Image, kind: Literal["PNG", "TIFF", "JPEG"], **options: Any
) -> bytes:
    """Return the file of a storable image: its pixels, their profile, and no EXIF."""
    if kind == "TIFF":
        options["tiffinfo"] = image.info.get(_TOLD) or {}
    buffer = BytesIO()
    image.save(buffer, kind, icc_profile=image.info.get("icc_profile"), exif=b"", **options)
    return buffer.getvalue()
