"""What an image costs to decode, estimated from its header: memory and work.

Bytes per pixel were measured as the growth of a process's resident memory during `decode`,
including the 4 bytes of its result: Pillow 12.3, pi-heif 1.4, images of 2400 x 2400 of
every mode, 2026-11-30. The figures here are rounded up.
"""

from dataclasses import dataclass

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.TiffImagePlugin import TiffImageFile

from isogon.errors import ImageError, ImageProblem

_BYTES = {
    "JPEG": 9,
    "PNG": 9,
    "WebP": 17,
    "HEIC": 10,
    "AVIF": 13,
    "TIFF": 13,
    "GIF": 9,
    "BMP": 9,
    "JPEG 2000": 26,
    "PPM": 9,
}
_PROGRESSIVE = 13  # a JPEG whose coefficients stay in memory until the last scan
_DEEP = 13  # grey samples of more than 8 bits
_DEEP_COLOURS = 30  # colours of 16 bits, both bytes of them

# Time of a format's slowest files, relative to a pass over a baseline JPEG.
_WORK = {"HEIC": 3, "AVIF": 3, "WebP": 3, "JPEG 2000": 20}

_TILE_WIDTH, _TILE_HEIGHT = 322, 323  # TIFF's tags
_RUNS_UP = 255  # rows that one step in a BMP's run lengths skips


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingCost:
    """What decoding an image costs.

    Args:
        bytes: peak memory, besides the file's own bytes.
        work: pixels times passes; about 5 ns each.
    """

    bytes: int
    work: int


def cost(
    kind: str, image: Image.Image, passes: int, *, deep_colours: bool = False
) -> DecodingCost:
    """Return the cost of an image that is opened, but not yet loaded.

    Args:
        kind: the format's name.
        image: with its header read.
        passes: over the pixels: the scans of a JPEG.
        deep_colours: whether both bytes of its colours of 16 bits are read.

    Raises:
        ImageError: its tiles or run lengths are far larger than the image.
    """
    pixels = image.width * image.height
    each = _BYTES[kind]
    if deep_colours:
        each, passes = _DEEP_COLOURS, 2
    elif passes > 1:
        each = _PROGRESSIVE
    elif image.mode.startswith(("I", "F")):
        each = max(each, _DEEP)
    stored = _stored(image)
    if stored > 4 * pixels + 2**24:
        raise ImageError(
            ImageProblem.TOO_LARGE,
            f"stores its {image.width} x {image.height} pixels in pieces of {stored:,}. "
            f"Save it again as PNG.",
        )
    return DecodingCost(
        bytes=each * pixels + 4 * stored, work=pixels * passes * _WORK.get(kind, 1)
    )


def _stored(image: Image.Image) -> int:
    """Return the pixels of the largest piece, which may be larger than the image."""
    if isinstance(image, TiffImageFile):
        sides = (image.tag_v2.get(_TILE_WIDTH, 0), image.tag_v2.get(_TILE_HEIGHT, 0))
        width, height = (side if isinstance(side, int) else 0 for side in sides)
        return width * height
    if isinstance(image, BmpImageFile) and image.tile and image.tile[0][0] == "bmp_rle":
        return image.width * _RUNS_UP
    return 0
