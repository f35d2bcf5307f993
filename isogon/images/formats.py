"""The formats that are decoded, and how each is recognised by its first bytes.

A new format is one entry here; service, command line, client and page use the list. The
name of a file does not matter.

JPEG XL is recognised and refused: of the maintained decoders for Python, one is GPL and
decodes a whole image to learn its size, the other is 100 MB of codecs.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import pi_heif
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile, DibImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

HEAD = 64  # bytes that are enough to recognise a format


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A format of image files."""

    name: str  # in messages
    open: Callable[[BytesIO], ImageFile]  # reads the header; pixels come with `load`
    types: tuple[str, ...]  # media types, the registered one first
    suffixes: tuple[str, ...]  # of file names, the usual one first
    start: re.Pattern[bytes]  # how its files begin


def _start(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


def _bitmap(file: BytesIO) -> ImageFile:
    """Open a BMP, or a DIB, which is a BMP without the file header."""
    headed = file.read(2) == b"BM"
    file.seek(0)
    return BmpImageFile(file) if headed else DibImageFile(file)


# Headers of bitmaps: their size, width and height, 1 plane, and the bits of a pixel.
_DIB = (
    rb"\x0c\0\0\0....\x01\0[\x01\x04\x08\x18]\0|"
    rb"[\x28\x34\x38\x40\x6c\x7c]\0\0\0.{8}\x01\0[\x01\x04\x08\x10\x18\x20]\0"
)

# The first box of an ISO base media file names its formats: "major brand", version,
# "compatible brands". `mif1` alone names no codec.
_AVIF = rb"....ftyp(avif|avis|mi[fa]1....(....){0,9}(avif|avis))"
_HEIC = rb"....ftyp(hei[cxms]|hev[cxms]|m[is]f1....(....){0,9}(hei[cxms]|hev[cxms]))"

FORMATS = (
    Format(
        name="JPEG",
        open=JpegImageFile,
        types=("image/jpeg", "image/jpg", "image/pjpeg"),
        suffixes=(
            ".jpg",
            ".jpeg",
            ".jpe",
            ".jfif",
            ".jif",
            ".jfi",
            ".mpo",
            ".pjpeg",
            ".pjp",
        ),
        start=_start(rb"\xff\xd8\xff(?!\xf7)"),  # not JPEG-LS
    ),
    Format(
        name="PNG",
        open=PngImageFile,
        types=("image/png", "image/apng"),
        suffixes=(".png", ".apng"),
        start=_start(rb"\x89PNG\r\n\x1a\n"),
    ),
    Format(
        name="WebP",
        open=WebPImageFile,
        types=("image/webp",),
        suffixes=(".webp",),
        start=_start(rb"RIFF....WEBP"),
    ),
    Format(
        name="HEIC",
        open=pi_heif.HeifImageFile,
        types=("image/heic", "image/heif"),
        suffixes=(".heic", ".heif", ".hif"),
        start=_start(_HEIC),
    ),
    Format(
        name="AVIF",
        open=AvifImageFile,
        types=("image/avif",),
        suffixes=(".avif", ".avifs"),
        start=_start(_AVIF),
    ),
    Format(
        name="TIFF",
        open=TiffImageFile,
        types=("image/tiff",),
        suffixes=(".tif", ".tiff"),
        start=_start(rb"(II[*+]\0|MM\0[*+])(?!....CR)"),  # not Canon's raw files
    ),
    Format(
        name="GIF",
        open=GifImageFile,
        types=("image/gif",),
        suffixes=(".gif",),
        start=_start(rb"GIF8[79]a"),
    ),
    Format(
        name="BMP",
        open=_bitmap,
        types=("image/bmp", "image/x-ms-bmp"),
        suffixes=(".bmp", ".dib"),
        start=_start(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0|" + _DIB),
    ),
    Format(
        name="JPEG 2000",
        open=Jpeg2KImageFile,
        types=("image/jp2", "image/jpx", "image/j2c"),
        suffixes=(".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
        start=_start(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n"),
    ),
    Format(
        name="PPM",
        open=PpmImageFile,
        types=("image/x-portable-pixmap", "image/x-portable-graymap"),
        suffixes=(".ppm", ".pgm", ".pbm", ".pnm"),
        start=_start(rb"P[456][\s#]"),
    ),
)

SUFFIXES = frozenset(suffix for each in FORMATS for suffix in each.suffixes)

# For messages: "JPEG, PNG, ... or PPM".
ACCEPTED = ", ".join(each.name for each in FORMATS[:-1]) + f" or {FORMATS[-1].name}"

# Formats that users send but that are not decoded: the message names them.
_OTHERS = {
    "a JPEG-LS": _start(rb"\xff\xd8\xff\xf7"),
    "a JPEG XL": _start(rb"\xff\x0a|\0\0\0\x0cJXL "),
    "a Canon raw": _start(rb"(II\*\0|MM\0\*)....CR|....ftypcrx"),
    "a HEIF": _start(rb"....ftypm[is]f1"),
    "a video": _start(rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI "),
    "an icon": _start(rb"\0\0[\x01\x02]\0[^\0]\0"),
    "a Photoshop": _start(rb"8BPS"),
    "a text-only PPM": _start(rb"P[123][\s#]"),
    "an MNG": _start(rb"\x8aMNG|\x8bJNG"),
    "a PAM": _start(rb"P7\s"),
    "a PFM": _start(rb"P[Ff]\s"),
    "a JPEG XR": _start(rb"II\xbc[\0\x01]"),
    "an OpenEXR": _start(rb"v/1\x01"),
    "a Radiance HDR": _start(rb"#\?R(ADIANCE|GBE)"),
    "a DDS": _start(rb"DDS "),
    "a QOI": _start(rb"qoif"),
    "a PCX": _start(rb"\x0a[\x02\x03\x05]\x01[\x01\x02\x04\x08]"),
    "a GIMP": _start(rb"gimp xcf"),
    "a FITS": _start(rb"SIMPLE  ="),
    "a NumPy": _start(rb"\x93NUMPY"),
    "an HDF5": _start(rb"\x89HDF\r\n\x1a\n"),
    "a PostScript": _start(rb"%!PS|\xc5\xd0\xd3\xc6"),
    "a gzip": _start(rb"\x1f\x8b"),
    "an AppleDouble": _start(rb"\0\x05\x16[\0\x07]"),
    "a Git LFS pointer": _start(rb"version https://git-lfs"),
    "a PDF": _start(rb"\s*%PDF"),
    "an SVG": _start(rb"\s*(<\?xml[^<]*)?<svg"),
    "an HTML": _start(rb"(?i)\s*<(!doctype )?html"),
    "an XML": _start(rb"\s*<\?xml"),
    "a ZIP": _start(rb"PK\x03\x04"),
    "a DICOM": _start(rb".{128}DICM"),
}


def format_of(head: bytes) -> Format | None:
    """Return the format of the file that begins with `head`, or None."""
    return next((each for each in FORMATS if each.start.match(head)), None)


def image_format(head: bytes) -> str | None:
    """Return the name of a file's format, such as "JPEG"; None for others.

    Args:
        head: the first `HEAD` bytes of the file, or more.
    """
    found = format_of(head)
    return None if found is None else found.name


def other_format(head: bytes) -> str | None:
    """Return which other format a file has, with an article, or None if unknown."""
    return next((name for name, start in _OTHERS.items() if start.match(head)), None)
