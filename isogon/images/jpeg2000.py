"""JPEG 2000: colours of more than 8 bits, in which Pillow may take white for black."""

from PIL import Image

from isogon.errors import ImageError, ImageProblem

_SIZES = b"\xff\x4f\xff\x51"  # the begin of the codestream, and of its sizes
_COMPONENTS, _FIRST = 40, 42  # their number and the first one's bits, from there


def require_certain(image: Image.Image, data: bytes) -> None:
    """Refuse colours of more than 8 bits with samples that are black or white.

    Pillow 12.3 rounds such samples to 8 bits, and the largest ones overflow to 0. If no
    sample is 0, none has.

    Args:
        image: loaded.
        data: its file.

    Raises:
        ImageError: a sample is 0.
    """
    if len(image.getbands()) == 1 or (bits := _bits(data)) <= 8:
        return
    extrema = image.getextrema()
    if all(isinstance(each, tuple) and each[0] > 0 for each in extrema):
        return
    raise ImageError(
        ImageProblem.UNSUPPORTED,
        f"is a JPEG 2000 with colours of {bits} bits, in which black and white cannot be "
        f"told apart here. Save it as PNG or TIFF, or with 8 bits per sample.",
    )


def _bits(data: bytes) -> int:
    """Return the most bits of a sample; 0 if the file does not say."""
    start = data.find(_SIZES)
    if start < 0:
        return 0
    count = int.from_bytes(data[start + _COMPONENTS : start + _FIRST])
    sizes = data[start + _FIRST : start + _FIRST + 3 * count : 3]
    return max((size & 127) + 1 for size in sizes) if sizes else 0
