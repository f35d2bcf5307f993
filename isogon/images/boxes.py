"""The boxes of HEIC and AVIF (ISO base media files): is the file complete, and its EXIF."""

import re
from collections.abc import Iterator

_WITH_ITEMS = (b"meta", b"moov")  # the boxes that list the items of the file

# The entry of an item: version, flags, number (longer from version 3 on), protection, kind.
_ENTRY = rb"infe(?:\x02.{7}|\x03.{9})(?=%s)"
_EXIF = re.compile(_ENTRY % rb"Exif", re.DOTALL)
_EXIF_OR_XMP = re.compile(_ENTRY % rb"(?:Exif|mime)", re.DOTALL)
_KIND = 4  # bytes


def is_complete(data: bytes) -> bool:
    """Return whether no box extends beyond the end of the file.

    libheif decodes a tiled photograph without its last tiles, and reports no error.
    """
    return all(end <= len(data) for _, _, end in _boxes(data))


def without_exif(data: bytes, *, xmp: bool = False) -> bytes:
    """Return the file with its EXIF changed to an item of unknown kind, which is ignored.

    Pillow copies every value of an AVIF's EXIF; thousands may overlap, which takes
    gigabytes. The orientation is not lost: it is in other boxes.

    Args:
        data: the file.
        xmp: whether to remove XMP too, which libheif unpacks to any size.
    """
    pattern = _EXIF_OR_XMP if xmp else _EXIF
    kept, done = [], 0
    for kind, start, end in _boxes(data):
        if kind in _WITH_ITEMS:
            for found in pattern.finditer(data, start, min(end, len(data))):
                kept += [data[done : found.end()], b"none"]
                done = found.end() + _KIND
    return b"".join([*kept, data[done:]]) if kept else data


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the outer boxes: kind, start, and end, which may be beyond the data."""
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4])
        if size == 1:  # the size follows, in 64 bits
            size = int.from_bytes(data[place + 8 : place + 16])
        kind = data[place + 4 : place + 8]
        if size < 8:  # 0: to the end of the file; the decoder handles others
            yield kind, place, len(data)
            return
        yield kind, place, place + size
        place += size
