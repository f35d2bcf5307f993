"""The orientation of an image, read from its EXIF or XMP.

Pillow does not parse the EXIF here, because it copies every value: from a megabyte in
which thousands of values overlap it makes gigabytes.
"""

import re
import struct

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

_TAG = 0x0112
_ENTRY = 12  # bytes

# By the type of the value, which should be SHORT; cameras write others too.
_KINDS = {1: "B", 3: "H", 4: "I", 8: "h", 9: "i"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return the transposition that makes a loaded image upright; Pillow does a TIFF's."""
    if isinstance(image, TiffImageFile):
        return None
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):
        exif = _profile(image.info.get("Raw profile type exif"))
    found = _in_exif(exif.removeprefix(b"Exif\0\0"))
    if found is None:
        found = _in_xmp(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp"))
    return None if found is None else _TURNS.get(found)


def _profile(text: object) -> bytes:
    """Return the EXIF that ImageMagick writes into a PNG as text."""
    lines = text.split("\n")[3:] if isinstance(text, str) else []
    try:
        return bytes.fromhex("".join(lines))
    except ValueError:
        return b""


def _in_exif(exif: bytes) -> int | None:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return None
    try:
        (place,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, place)
        for number in range(count):
            entry = place + 2 + _ENTRY * number
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == _TAG and kind in _KINDS:
                return int(struct.unpack_from(order + _KINDS[kind], exif, entry + 8)[0])
    except struct.error:
        pass  # ignore damaged EXIF
    return None


def _in_xmp(text: object) -> int | None:
    if isinstance(text, str):
        text = text.encode("utf-8", "replace")
    found = _IN_XMP.search(text) if isinstance(text, bytes) else None
    return None if found is None else int(found[1])
