"""TIFF: a limit on its tags, what Pillow misreads or cannot read, and why."""

import struct

from PIL import ImagePalette
from PIL.TiffImagePlugin import COMPRESSION_INFO, II, MM, OPEN_INFO, TiffImageFile

from isogon.errors import ImageError, ImageProblem

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8,
          13: 4, 16: 8, 17: 8, 18: 8}  # fmt: skip # bytes, by the type of a value

_BITS_PER_SAMPLE, _COMPRESSION, _PLANAR, _COLOURS, _FORMAT = 258, 259, 284, 320, 339
_SAMPLES, _APART, _SIGNED = 277, 2, 2
_UNKNOWN = ("unknown pixel mode", "unknown data organization")  # Pillow's errors
_BANDS = ("R", "G", "B", "A")  # as Pillow calls planes of 8 bits

# Compressions that Pillow's libtiff lacks.
_COMPRESSIONS = {
    34712: "JPEG 2000",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34887: "LERC",
    34892: "JPEG (lossy DNG)",
    34933: "PNG",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_FORMATS = {2: "signed integers", 3: "floating-point numbers", 5: "complex integers",
            6: "complex numbers"}  # fmt: skip # of samples; 1: unsigned integers

# Grey of 12 and 16 bits that Pillow 12.3 reads in one order of bytes or with 0 as black
# alone. By byte order, what 0 is (0: white), sample format, order of bits, bits.
OPEN_INFO.setdefault((MM, 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))
for _prefix, _zero in ((II, 0), (MM, 0), (MM, 1)):
    OPEN_INFO.setdefault((_prefix, _zero, (1,), 1, (12,), ()), ("I;16", "I;12"))


def require_modest(data: bytes) -> None:
    """Refuse a TIFF whose tags have far more bytes than the file.

    Pillow copies each tag's values; thousands that overlap in the file take gigabytes.

    Raises:
        ImageError: the tags are too large, or the directory is outside the file.
    """
    try:
        tags = _tags(data)
    except struct.error as error:
        raise ImageError(
            ImageProblem.UNDECODABLE,
            "begins as TIFF, but its header is truncated. Send the complete file.",
        ) from error
    if sum(_SIZES.get(kind, 1) * count for _, kind, count, _ in tags) > 2 * len(data):
        raise ImageError(
            ImageProblem.UNDECODABLE,
            "begins as TIFF, but is damaged or truncated: its tags hold more bytes than "
            "the file. Send the complete file.",
        )


def unsupported(data: bytes, error: str = "") -> str | None:
    """Return why a whole TIFF may not be decoded; None: by its tags it should be.

    Args:
        data: a file that `require_modest` accepts, and that is not decoded.
        error: Pillow's message.
    """
    if data[:4] == b"MM\0+":
        return "a BigTIFF whose most significant bytes come first"
    numbers = {
        tag: _first(data, kind, count, value) for tag, kind, count, value in _tags(data)
    }
    compression = numbers.get(_COMPRESSION, 1)
    if compression in _COMPRESSIONS:
        return f"a TIFF compressed by {_COMPRESSIONS[compression]}"
    if compression not in COMPRESSION_INFO:
        return f"a TIFF with compression {compression}"
    bits, form = numbers.get(_BITS_PER_SAMPLE, 1), numbers.get(_FORMAT, 1)
    if bits not in (1, 2, 4, 8, 16) or form != 1:
        words = _FORMATS.get(form, "integers")
        return f"a TIFF whose samples are {words} of {bits} bits"
    if error in _UNKNOWN:
        return f"a TIFF of {numbers.get(_SAMPLES, 1)} samples of {bits} bits per pixel"
    return None


def mend(image: TiffImageFile) -> None:
    """Correct what Pillow 12.3 misreads, before the image is loaded.

    Raises:
        ImageError: its samples are signed, in 8 bits, which Pillow takes for unsigned.
    """
    if image.mode == "L" and image.tag_v2.get(_FORMAT, (1,))[0] == _SIGNED:
        raise ImageError(
            ImageProblem.UNSUPPORTED,
            "is a TIFF whose samples are signed integers of 8 bits, which is not decoded. "
            "Convert it to unsigned integers.",
        )
    _mend_planes(image)
    colours = image.tag_v2.get(_COLOURS)
    if image.mode == "P" and colours and max(colours) < 256:
        # They have 16 bits, but some writers use 8, as libtiff's tools know.
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def _mend_planes(image: TiffImageFile) -> None:
    """Make Pillow read 16 bits per sample if the colours are in separate planes.

    Pillow 12.3 reads 8 bits per sample of such uncompressed files, and returns noise.
    """
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (8,))
    if bits[0] != 16 or image.tag_v2.get(_PLANAR) != _APART:
        return
    order = ";16B" if image.tag_v2.prefix == b"MM" else ";16L"
    for place, tile in enumerate(image.tile):
        if tile.codec_name == "raw" and isinstance(tile.args, tuple):
            rawmode, *others = tile.args
            if rawmode in _BANDS:
                image.tile[place] = tile._replace(args=(rawmode + order, *others))


def _tags(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Return the tags of the first directory: number, type, count, and value or place.

    Raises:
        struct.error: the directory is outside the file.
    """
    order, big = _order(data), _is_big(data)
    first, count, entry = (8, "Q", "HHQ8s") if big else (4, "H", "HHI4s")
    (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, first)
    (entries,) = struct.unpack_from(order + count, data, place)
    place += struct.calcsize(order + count)
    table = data[place : place + entries * struct.calcsize(order + entry)]
    return list(struct.iter_unpack(order + entry, table)) if entries < 65536 else []


def _first(data: bytes, kind: int, count: int, value: bytes) -> int:
    """Return the first value of a tag that holds integers; -1 for others."""
    code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
    if code is None:
        return -1
    order = _order(data)
    try:
        if _SIZES[kind] * count > len(value):
            (place,) = struct.unpack(order + ("Q" if _is_big(data) else "I"), value)
            value = data[place : place + _SIZES[kind]]
        return int(struct.unpack_from(order + code, value)[0])
    except struct.error:
        return -1


def _order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


def _is_big(data: bytes) -> bool:
    return data[2:4] in (b"+\0", b"\0+")
