"""TIFF: a limit on the size of its tags, and a correction of what Pillow misreads."""

import struct

from PIL.TiffImagePlugin import TiffImageFile

from isogon.errors import ImageError, ImageProblem

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8,
          13: 4, 16: 8, 17: 8, 18: 8}  # fmt: skip # bytes, by the type of a value

_BITS_PER_SAMPLE, _PLANAR, _APART = 258, 284, 2
_BANDS = ("R", "G", "B", "A")  # as Pillow calls planes of 8 bits


def require_modest(data: bytes) -> None:
    """Refuse a TIFF whose tags have far more bytes than the file.

    Pillow copies each tag's values; thousands that overlap in the file take gigabytes.

    Raises:
        ImageError: the tags are too large, or the directory is outside the file.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    first, count, entry = (8, "Q", "HHQ8x") if big else (4, "H", "HHI4x")
    try:
        (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, first)
        (entries,) = struct.unpack_from(order + count, data, place)
        place += struct.calcsize(order + count)
        table = data[place : place + entries * struct.calcsize(order + entry)]
        tags = list(struct.iter_unpack(order + entry, table)) if entries < 65536 else []
    except struct.error as error:
        raise ImageError(
            ImageProblem.UNDECODABLE,
            "begins as TIFF, but its header is truncated. Send the complete file.",
        ) from error
    if sum(_SIZES.get(kind, 1) * number for _, kind, number in tags) > 2 * len(data):
        raise ImageError(
            ImageProblem.UNDECODABLE,
            "begins as TIFF, but is damaged or truncated: its tags hold more bytes than "
            "the file. Send the complete file.",
        )


def mend_planes(image: TiffImageFile) -> None:
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
