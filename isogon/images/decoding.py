"""From bytes to an RGB image: bounded, upright, in sRGB, on white.

Of an animation, of several pages or of a burst the first image counts, in HEIC the
primary one.

JPEG's scaled decoding (Pillow's `draft`) is not used. On 150 photographs of about
500 x 375 and a student of 96 pixels it halved the time of decoding where it could leave
as little as the target's size, but embeddings then had cosines down to 0.9946 with those
of full decoding; down to 0.9979, 0.9989 and 0.99995 where it had to leave 1.5, 2 and 3
times as much. Parity allows float32 artifacts 0.99999. At 4 times it would be within
that, and few photographs are that large for their model.
"""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass

import pi_heif
from PIL import AvifImagePlugin, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from isogon.errors import ImageError, ImageProblem
from isogon.images import gif, tiff
from isogon.images.boxes import is_complete, without_exif
from isogon.images.colours import Correction, correction
from isogon.images.cost import Cost, cost
from isogon.images.formats import ACCEPTED, Format, format_of, other_format
from isogon.images.jpeg import structure
from isogon.images.netpbm import is_unusual, unusual
from isogon.images.orientation import turn_of
from isogon.images.png import mend_transparency, without_excess
from isogon.images.samples import ASSUMED, Range, eight_bit, is_deep, told_range

# TIFF tags of raw photographs, in which only a preview can be read.
_DNG_VERSION = 50706
_SUBFILE_TYPE, _REDUCED = 254, 1

_RLE4 = 2  # a BMP's compression, of which Pillow makes noise (12.3)

# So many passes store an image of any size; one in more may have fewer pixels: cameras
# and editors write up to 12, and 200 over a large image would take half a minute.
_PASSES = 16
_REPEATED = 4  # passes over the largest image are the work that more of them may be

_STRIP = 64  # rows of an image with transparency that are laid on white at a time

# Our own limit is judged on the header, before any pixel is decoded, and per call.
Image.MAX_IMAGE_PIXELS = None

# A strip of a TIFF may be a progressive JPEG; libtiff, which reads this, allows it 100.
os.environ.setdefault("LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER", str(_PASSES))

# Who decodes several images at a time has the threads.
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
    admit: Callable[[Cost], None] | None = None,
) -> Image.Image:
    """Return the RGB image that `data` encodes, upright, in sRGB, on white.

    Args:
        data: a file of one of the formats of `formats.py`.
        limits: the largest image that is decoded.
        samples: black and white of grey images of more than 8 bits; None: as each file
            says.
        admit: hears what decoding will take, before any pixel is decoded. What it raises
            goes through, and nothing is decoded.

    Returns:
        The image. Its `info` has the largest sample under `ASSUMED` where neither the file
        nor `samples` say what grey of 16 bits ranges over.

    Raises:
        ImageError: too large or too costly (judged before decoding), an unsupported
            format, or bytes that do not decode to the end.
        MemoryError: there is no room for it.
    """
    limits = limits or ImageLimits()
    if len(data) > limits.bytes:
        raise ImageError(
            ImageProblem.TOO_LARGE,
            f"has {len(data):,} bytes, more than the limit of {limits.bytes:,}. "
            f"Send a smaller file.",
        )
    found = _known(data)
    passes = 1
    if found.name == "JPEG":
        walked = structure(data)
        passes, data = walked.scans, walked.with_short_exif(data)
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
    takes = cost(found.name, image, passes)
    if admit is not None:
        admit(takes)
    try:
        if is_unusual(image):
            return unusual(image, data, samples).convert("RGB")
        image.load()
        turn = turn_of(image)
        if isinstance(image, PngImageFile):
            mend_transparency(image, data)
        # Not nested: what was read is free before the next copy.
        if is_deep(image):
            image = eight_bit(image, samples or told_range(image, data))
        if turn is not None:
            image = image.transpose(turn)
        result = _rgb(image)
        result.info = {key: image.info[key] for key in (ASSUMED,) if key in image.info}
        return result
    except (ImageError, MemoryError):
        raise  # the latter says nothing about the file
    # Hostile bytes reach many decoders here, each with errors of its own kind.
    except Exception as error:
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
    # Hostile bytes reach many parsers here, each with errors of its own kind.
    except Exception as error:
        # Where a parser ran into something unforeseen, its words say nothing.
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
        tiff.mend_planes(image)
    if isinstance(image, BmpImageFile) and image.info.get("compression") == _RLE4:
        raise ImageError(
            ImageProblem.UNSUPPORTED,
            "is a BMP in run lengths of 4 bits, which is not read. Save it as PNG.",
        )
    return image


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
    colours = correction(image)
    if image.has_transparency_data:
        return _on_white(image, colours)
    if image.mode in ("CMYK", "LAB"):
        return colours.applied(image).convert("RGB")
    return colours.applied(image.convert("RGB"))


def _on_white(image: Image.Image, colours: Correction) -> Image.Image:
    """Lay an image on white, in strips: whole layers would be three more images."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP):
        bottom = min(top + _STRIP, image.height)
        layer = colours.applied(image.crop((0, top, image.width, bottom)).convert("RGBA"))
        white = Image.new("RGBA", layer.size, "white")
        result.paste(Image.alpha_composite(white, layer).convert("RGB"), (0, top))
    return result
