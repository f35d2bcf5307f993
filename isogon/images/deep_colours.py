"""Colours of 16 bits: Pillow keeps their high bytes; where that loses, the low ones too.

It loses where fewer bits are used (12 of 16), so that all is nearly black, and where one
exact colour is transparent.
"""

import re

import numpy as np
from jaxtyping import Shaped, UInt16
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from isogon.errors import ImageError, ImageProblem
from isogon.images.png import significant_bits
from isogon.images.sample_range import (
    FULL,
    Range,
    levels,
    range_of_png,
    range_of_tiff,
)

_PLANAR, _APART = 284, 2  # TIFF's tag
_RAW = re.compile(r"(RGB|RGBA|RGBX|[RGBA]);16[BLN]")  # Pillow's names of samples in files
_SWAPPED = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B"}


def are_read_whole(image: Image.Image, data: bytes, stated: Range | None) -> bool:
    """Return whether an image has colours of 16 bits whose high bytes do not suffice.

    Args:
        image: opened, not loaded.
        data: its file.
        stated: the range of deep samples, if stated.

    Raises:
        ImageError: that is so, and Pillow cannot read the others.
    """
    if image.mode not in ("RGB", "RGBA") or not isinstance(image, ImageFile):
        return False
    if not image.tile or not all(_RAW.fullmatch(_raw_mode(p.args)) for p in image.tile):
        return False
    needed = _is_narrow(image, data) if stated is None else stated != FULL
    if not needed or not isinstance(image, TiffImageFile):
        return needed
    if image.tag_v2.get(_PLANAR) == _APART and image.tile[0].codec_name == "libtiff":
        raise ImageError(
            ImageProblem.UNSUPPORTED,
            "is a TIFF of compressed planes that use fewer than 16 bits, which is not "
            "decoded. Save it without compression, or as PNG.",
        )
    return True


def _is_narrow(image: ImageFile, data: bytes) -> bool:
    if isinstance(image, TiffImageFile):
        return range_of_tiff(image) != FULL
    if isinstance(image, PngImageFile):
        bits = significant_bits(data)
        used = bits is not None and 8 <= bits < 16
        return used or isinstance(image.info.get("transparency"), tuple)
    return False


def read_low_bytes(image: ImageFile) -> None:
    """Make Pillow load the low bytes of an opened image in place of the high ones."""
    for place, part in enumerate(image.tile):
        raw_mode = _raw_mode(part.args)
        swapped = raw_mode[:-4] + _SWAPPED[raw_mode[-4:]]
        others = part.args[1:] if isinstance(part.args, tuple) else ()
        args = (swapped, *others) if others else swapped
        image.tile[place] = part._replace(args=args)


def in_eight_bits(
    high: Image.Image, low: Image.Image, data: bytes, stated: Range | None
) -> Image.Image:
    """Return colours of 16 bits as 8-bit RGB or RGBA, within the range that holds for them.

    Args:
        high: the loaded image, with its `info`.
        low: the same image, loaded after `read_low_bytes`.
        data: its file.
        stated: the range of deep samples, if stated.
    """
    samples: UInt16[np.ndarray, "h w c"] = np.asarray(high).astype(np.uint16)
    samples <<= 8
    samples |= np.asarray(low)
    colours = samples[..., :3]
    found = np.asarray(high)
    limits = stated or _told(high, colours, data)
    if limits is not None and limits != FULL:
        found = found.copy()
        found[..., :3] = levels(colours, limits)
    result = Image.fromarray(found)
    clear = high.info.get("transparency")
    if isinstance(clear, tuple):
        opaque = (colours != np.array(clear, np.uint16)).any(axis=-1)
        result.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    if "icc_profile" in high.info:
        result.info["icc_profile"] = high.info["icc_profile"]
    return result


def _told(
    image: Image.Image, samples: Shaped[np.ndarray, "h w 3"], data: bytes
) -> Range | None:
    if isinstance(image, TiffImageFile):
        return range_of_tiff(image)
    return range_of_png(samples, significant_bits(data))


def _raw_mode(args: object) -> str:
    first = args[0] if isinstance(args, tuple | list) and args else args
    return first if isinstance(first, str) else ""
