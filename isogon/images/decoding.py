"""From bytes to an RGB image: within limits, upright, in sRGB, on white.

Only the first image of an animation, a file of several pages or a burst is decoded; in
HEIC it is the primary image.

JPEG's scaled decoding (Pillow's `draft`) is not used. On 150 photographs of about
500 x 375 and a student of 96 pixels it halved the decoding time if it could scale down to
the target's size, but embeddings then had cosines down to 0.9946 with those of full
decoding. The minimum was 0.9979, 0.9989 and 0.99995 if the scaled image was at least 1.5,
2 and 3 times the target's size. Parity requires 0.99999 of float32 artifacts. At 4 times
it would be within that, but few photographs are that large for their model.
"""

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass

import pi_heif
from PIL import AvifImagePlugin, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from isogon.errors import ImageError, ImageProblem
from isogon.images import gif, jpeg2000, tiff
from isogon.images.boxes import is_complete, without_exif
from isogon.images.colours import Correction, correction
from isogon.images.cost import DecodingCost, cost
from isogon.images.deep_colours import are_read_whole, in_eight_bits, read_low_bytes
from isogon.images.formats import ACCEPTED, Format, format_of, other_format
from isogon.images.frames import alone_on_white, first_frame_box
from isogon.images.jpeg import TRIES, endings, structure
from isogon.images.netpbm import is_unusual, unusual
from isogon.images.orientation import turn_of
from isogon.images.png import mend_transparency, without_excess
from isogon.images.sample_range import ASSUMED, Range, eight_bit, is_deep, stated_range

# TIFF tags of raw photographs, in which only a preview can be read.
_DNG_VERSION = 50706
_SUBFILE_TYPE, _REDUCED = 254, 1

_KIND_OF_BMP = "Unsupported BMP "  # begins Pillow's errors for them
_RLE4 = 2  # a BMP's compression that Pillow 12.3 decodes to noise

# An image of any size may have this many passes; one with more must have fewer pixels.
# Cameras and editors write up to 12, and 200 over a large image would take half a minute.
_PASSES = 16
_REPEATED = 4  # passes over the largest image: the limit of work for more passes

_STRIP = 64  # rows that are put on white, or hashed, at a time

# Our own limit is checked per call, on the header, before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None

# A strip of a TIFF may be a progressive JPEG, for which libtiff allows 100 scans.
os.environ.setdefault("LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER", str(_PASSES))

# The caller has the threads: it decodes several images at a time.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
pi_heif.options.DECODE_THREADS = 1
pi_heif.options.THUMBNAILS = False
pi_heif.options.DEPTH_IMAGES = False
pi_heif.options.AUX_IMAGES = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLimits:
    """The largest image that is decoded."""

    bytes: int = 20 * 2**20
    pixels: int = 64_000_000


def decode(
    data: bytes,
    limits: ImageLimits | None = None,
    *,
    samples: Range | None = None,
    admit: Callable[[DecodingCost], None] | None = None,
) -> Image.Image:
    """Return the RGB image that `data` encodes, upright, in sRGB, on white.

    Args:
        data: a file of one of the formats of `formats.py`.
        limits: the largest image that is decoded.
        samples: the range of samples of more than 8 bits; None: that of each file.
        admit: called with the cost before any pixel is decoded. If it raises, nothing is
            decoded.

    Returns:
        The image. If neither the file nor `samples` states the range of 16-bit grey, its
        `info` has the largest sample under `ASSUMED`.

    Raises:
        ImageError: too large or too costly (checked before decoding), an unsupported
            format, or bytes that do not decode to the end.
        MemoryError: there is not enough memory.
    """
    limits = limits or ImageLimits()
    if len(data) > limits.bytes:
        raise ImageError(
            ImageProblem.TOO_LARGE,
            f"has {len(data):,} bytes, more than the limit of {limits.bytes:,}. "
            f"Send a smaller file.",
        )
    found = _known(data)
    passes, ends = 1, True
    if found.name == "JPEG":
        walked = structure(data)
        passes, ends = walked.scans, walked.ends
        data = walked.with_short_exif(data)
    elif found.name == "PNG":
        data = without_excess(data)
    elif found.name == "TIFF":
        tiff.require_modest(data)
    elif found.name == "GIF":
        gif.require_modest(data)
    elif found.name in ("HEIC", "AVIF"):
        _require_complete(data)
        data = without_exif(data, xmp=found.name == "HEIC")
    image: Image.Image = _opened(found, data)
    _require_bounded(image, passes, limits)
    whole = are_read_whole(image, data, samples)
    passes = passes if ends else passes * TRIES
    takes = cost(found.name, image, passes, deep_colours=whole)
    if admit is not None:
        admit(takes)
    try:
        if is_unusual(image):
            return unusual(image, data, samples).convert("RGB")
        box = first_frame_box(image, data)
        if ends:
            image.load()
        else:
            image = _without_end(found, data)
        turn = turn_of(image)
        if isinstance(image, PngImageFile):
            mend_transparency(image, data)
        elif isinstance(image, Jpeg2KImageFile):
            jpeg2000.require_certain(image, data)
        # Not nested, so that each copy is freed before the next is made.
        if whole:
            low = _opened(found, data)
            read_low_bytes(low)
            low.load()
            image = in_eight_bits(image, low, data, samples)
            del low
        elif is_deep(image):
            image = eight_bit(image, samples or stated_range(image, data))
        if turn is not None:
            image = image.transpose(turn)
        result = _rgb(image)
        if box is not None:
            result = alone_on_white(result, box)
        result.info = {key: image.info[key] for key in (ASSUMED,) if key in image.info}
        return result
    except (ImageError, MemoryError):
        raise  # a MemoryError says nothing about the file
    # Hostile bytes reach many decoders here, and each has its own errors.
    except Exception as error:
        if found.name == "TIFF" and (words := tiff.unsupported(data)):
            raise _not_decoded(words) from error
        raise ImageError(
            ImageProblem.UNDECODABLE,
            f"is truncated or damaged: {error}. Send the complete file.",
        ) from error


def _require_complete(data: bytes) -> None:
    if not is_complete(data):
        raise ImageError(
            ImageProblem.UNDECODABLE, "is truncated: it ends early. Send the complete file."
        )


def _known(data: bytes) -> Format:
    if not data:
        raise ImageError(ImageProblem.UNDECODABLE, f"is empty. Send {ACCEPTED}.")
    found = format_of(data)
    if found is not None:
        return found
    other = other_format(data)
    if other is not None:
        raise ImageError(ImageProblem.UNSUPPORTED, f"is {other} file. Send {ACCEPTED}.")
    raise ImageError(
        ImageProblem.UNDECODABLE,
        f"is not an image that can be read: it starts with {data[:8]!r}. Send {ACCEPTED}.",
    )


def _opened(kind: Format, data: bytes) -> ImageFile.ImageFile:
    try:
        image = kind.open(io.BytesIO(data))
    except MemoryError:
        raise
    # Hostile bytes reach many parsers here, and each has its own errors.
    except Exception as error:
        if kind.name == "TIFF" and (words := tiff.unsupported(data, str(error))):
            raise _not_decoded(words) from error
        if str(error).startswith(_KIND_OF_BMP):
            words = str(error).removeprefix(_KIND_OF_BMP)
            raise ImageError(
                ImageProblem.UNSUPPORTED,
                f"is a BMP whose {words} is not supported. Save it as PNG.",
            ) from error
        # The message of an unforeseen error in a parser is of no use.
        reason = "it breaks off" if error.__cause__ is not None else error
        raise ImageError(
            ImageProblem.UNDECODABLE,
            f"begins as {kind.name}, but its header is damaged or of a kind that is not "
            f"read: {reason}. Send the complete file, or JPEG.",
        ) from error
    if isinstance(image, TiffImageFile) and _is_preview(image):
        raise ImageError(
            ImageProblem.UNSUPPORTED,
            "is a raw photograph or begins with a preview, and the photograph itself is "
            "not read. Export it as JPEG or TIFF.",
        )
    if isinstance(image, TiffImageFile):
        tiff.mend(image)
    if isinstance(image, BmpImageFile) and image.info.get("compression") == _RLE4:
        raise ImageError(
            ImageProblem.UNSUPPORTED,
            "is a BMP in run lengths of 4 bits, which is not supported. Save it as PNG.",
        )
    return image


def _without_end(kind: Format, data: bytes) -> Image.Image:
    """Return a JPEG that lacks its end marker, but no pixel.

    Raises:
        ValueError: pixels are missing.
    """
    image, digests = None, set()
    for whole in endings(data):
        image = _opened(kind, whole)
        image.load()
        digests.add(_digest(image))
    if image is None or len(digests) > 1:
        raise ValueError("it ends early")
    return image


def _digest(image: Image.Image) -> bytes:
    digest = hashlib.blake2b()
    for top in range(0, image.height, _STRIP):
        bottom = min(top + _STRIP, image.height)
        digest.update(image.crop((0, top, image.width, bottom)).tobytes())
    return digest.digest()


def _not_decoded(words: str) -> ImageError:
    return ImageError(
        ImageProblem.UNSUPPORTED,
        f"is {words}, which is not decoded. Save it as PNG, or as TIFF of 8 or 16 bits.",
    )


def _is_preview(image: TiffImageFile) -> bool:
    kind = image.tag_v2.get(_SUBFILE_TYPE, 0)
    return _DNG_VERSION in image.tag_v2 or (isinstance(kind, int) and bool(kind & _REDUCED))


def _require_bounded(image: Image.Image, passes: int, limits: ImageLimits) -> None:
    pixels = image.width * image.height
    if pixels > limits.pixels:
        raise ImageError(
            ImageProblem.TOO_LARGE,
            f"has {image.width} x {image.height} pixels, more than the limit of "
            f"{limits.pixels:,}. Scale it down.",
        )
    if passes > _PASSES and pixels * passes > limits.pixels * _REPEATED:
        raise ImageError(
            ImageProblem.TOO_LARGE,
            f"stores its {image.width} x {image.height} pixels in {passes} passes "
            f"(progressive scans), more work than {_REPEATED} passes over "
            f"{limits.pixels:,} pixels. Save it again as JPEG, or scale it down.",
        )


def _rgb(image: Image.Image) -> Image.Image:
    if isinstance(image, BmpImageFile) and image.mode == "RGBA":
        if image.getchannel("A").getbbox() is None:
            image = image.convert("RGB")  # the header announces alpha, and none is written
    colours = correction(image)
    if image.has_transparency_data:
        return _on_white(image, colours)
    if image.mode in ("CMYK", "LAB"):
        return colours.applied(image).convert("RGB")
    return colours.applied(image.convert("RGB"))


def _on_white(image: Image.Image, colours: Correction) -> Image.Image:
    """Put an image on white, in strips: whole layers would take three more images."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP):
        bottom = min(top + _STRIP, image.height)
        layer = colours.applied(image.crop((0, top, image.width, bottom)).convert("RGBA"))
        white = Image.new("RGBA", layer.size, "white")
        result.paste(Image.alpha_composite(white, layer).convert("RGB"), (0, top))
    return result
