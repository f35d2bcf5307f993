"""Samples of more than 8 bits ("deep"): their range from black to white.

The range is, in this order: the one stated (`[data] range` of a recipe), the one of the
file's tags (TIFF's BitsPerSample, MaxSampleValue and SMaxSampleValue, PNG's sBIT), and for
16 unsigned bits 0 to 65535. Other samples without a range are refused.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from isogon.errors import ImageError, ImageProblem
from isogon.images.png import significant_bits

Range = tuple[float, float]  # black, white
FULL: Range = (0.0, 65535.0)

# The key of an image's `info` for the largest sample, if the range is assumed.
ASSUMED = "isogon.largest"
_STRIP = 64  # rows computed at a time, in float64
_SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")

# TIFF's tags
_BITS_PER_SAMPLE = 258
_WHITE_IS_ZERO = 262, 0
_LEAST, _MOST = (340, 280), (341, 281)  # SMinSampleValue, MinSampleValue; ...Max...


def is_deep(image: Image.Image) -> bool:
    """Return whether an image's samples have more than 8 bits."""
    return image.mode in ("I", "F", *_SIXTEEN)


def stated_range(image: Image.Image, data: bytes) -> Range | None:
    """Return the range that a file states for its deep samples, or None.

    Args:
        image: opened and loaded.
        data: the file.
    """
    if isinstance(image, TiffImageFile):
        return range_of_tiff(image)
    if isinstance(image, PngImageFile):
        return range_of_png(np.asarray(image), significant_bits(data))
    return FULL if isinstance(image, PpmImageFile) else None


def eight_bit(image: Image.Image, limits: Range | None) -> Image.Image:
    """Return deep samples as 8-bit grey: black is 0, white is 255, in equal steps.

    If one grey is transparent, the result has mode LA.

    Args:
        image: as opened, of mode I;16 or a variant, I or F; its `info` may name a
            transparent grey.
        limits: the samples of black and white; None: unknown.

    Raises:
        ImageError: the range is unknown and is not assumed.
    """
    samples = np.asarray(image)
    assumed = limits is None and image.mode in _SIXTEEN
    if assumed:
        limits = FULL
    if limits is None:
        kind = "floating-point numbers" if image.mode == "F" else "integers of 32 bits"
        raise ImageError(
            ImageProblem.UNSUPPORTED,
            f"has samples that are {kind}, without their range from black to white. "
            f"Convert it to 8 or 16 bits, or state `range = [black, white]` under [data] "
            f"of the recipe.",
        )
    if image.mode in _SIXTEEN:
        grey = _table(limits)[samples]
    else:
        grey = levels(samples, limits)
    if _is_inverted(image):
        np.invert(grey, out=grey)
    result = Image.fromarray(grey)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = np.where(samples == transparent, np.uint8(0), np.uint8(255))
        result = Image.merge("LA", (result, Image.fromarray(alpha)))
    if "icc_profile" in image.info:
        result.info["icc_profile"] = image.info["icc_profile"]
    if assumed:
        result.info[ASSUMED] = int(samples.max())
    return result


def levels(
    samples: Shaped[np.ndarray, "h ..."], limits: Range
) -> UInt8[np.ndarray, "h ..."]:
    """Return each sample's level, of 256 equal steps from black to white.

    NaN becomes black; samples outside the range become black or white.
    """
    black, white = limits
    end = white + 1 if samples.dtype.kind in "iu" else white
    found = np.empty(samples.shape, np.uint8)
    for top in range(0, len(samples), _STRIP):
        strip = samples[top : top + _STRIP].astype(np.float64)
        known = np.nan_to_num(strip, nan=black).clip(black, white) - black
        found[top : top + _STRIP] = (known * (256 / (end - black))).clip(0, 255)
    return found


def _is_inverted(image: Image.Image) -> bool:
    """Return whether 0 is white; Pillow handles this only in 8 bits."""
    tag, inverted = _WHITE_IS_ZERO
    return isinstance(image, TiffImageFile) and image.tag_v2.get(tag) == inverted


@lru_cache(maxsize=16)
def _table(limits: Range) -> UInt8[np.ndarray, " 65536"]:
    return levels(np.arange(65536), limits)


def range_of_tiff(image: TiffImageFile) -> Range | None:
    """Return the range that a TIFF's tags state for its deep samples, or None."""
    tags = image.tag_v2
    least, most = (
        next((v for tag in tried if (v := _number(tags.get(tag))) is not None), None)
        for tried in (_LEAST, _MOST)
    )
    if image.mode not in (*_SIXTEEN, "RGB", "RGBA"):
        found = (0.0 if least is None else least, 0.0 if most is None else most)
        return found if found[0] < found[1] else None
    bits = int(_number(tags.get(_BITS_PER_SAMPLE)) or 16)
    if most is not None and 0 < most < FULL[1]:
        # It may be this image's largest sample, so only its number of bits counts.
        bits = min(bits, int(most).bit_length())
    return 0.0, 2.0 ** max(bits, 8) - 1


def _number(value: object) -> float | None:
    """Return a tag's value, or the first of several (one per channel)."""
    if isinstance(value, tuple) and value:
        value = value[0]
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def range_of_png(samples: Shaped[np.ndarray, "h ..."], bits: int | None) -> Range | None:
    """Return the range of a 16-bit PNG of which `bits` are significant.

    By the standard (sBIT), such samples are scaled up to 16 bits. Many writers do not
    scale them. Then no sample needs more bits, and the values are not those of scaling.
    """
    if bits is None or not 8 <= bits < 16:
        return None
    white = 2**bits - 1
    if samples.max() > white:
        return None
    step = FULL[1] / white
    for top in range(0, len(samples), _STRIP):
        strip = samples[top : top + _STRIP]
        if not (np.abs(strip - np.rint(strip / step) * step) <= 1).all():
            return 0.0, float(white)
    return None
