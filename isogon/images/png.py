"""PNG chunks: remove metadata that prevents decoding; read bits and transparency."""

import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

from isogon.errors import ImageError, ImageProblem

_SIGNATURE = 8  # bytes
_DEPTH = 24  # the offset of the bits per sample
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PROFILE = b"iCCP"

# Lengths in bytes; a chunk of another length is damaged.
_LENGTHS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}
_COLOURS = 25  # the offset of the type of colours
_TRANSPARENT = {b"\0": 2, b"\2": 6}  # lengths of tRNS, by the type of colours
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_MOST_CHUNKS = 100_000  # libpng writes one for each 8 KiB
_ROOM = 4 * 2**20  # bytes of texts and profile that are read, unpacked

# By default Pillow refuses a file if a text or the profile unpacks to more than 1 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = _ROOM


def without_excess(data: bytes) -> bytes:
    """Return a PNG without damaged or too large metadata.

    This removes auxiliary chunks with a wrong checksum or length, texts and profiles after
    they unpack to more than 4 MiB together, and an animation's later frames. Most files
    are returned unchanged.

    Raises:
        ImageError: it has more chunks than any writer makes.
    """
    room = _ROOM
    colours = data[_COLOURS : _COLOURS + 1]
    kept: list[bytes] = []
    done = 0
    for number, (kind, start, end) in enumerate(_chunks(data)):
        if number == _MOST_CHUNKS:
            raise ImageError(
                ImageProblem.TOO_LARGE,
                f"has more than {_MOST_CHUNKS:,} chunks. Save it again as PNG.",
            )
        if kind[0] < ord("a") or end > len(data):
            continue  # chunks of the pixels, or truncated: the decoder checks those
        body = data[start + 8 : end - 4]
        read = kind in _TEXTS or kind == _PROFILE
        if read:
            room -= _unpacked_size(kind, body, room)
        if (
            (read and room < 0)
            or kind in _ANIMATION
            or len(body) != _LENGTHS.get(kind, len(body))
            or (kind == b"tRNS" and len(body) != _TRANSPARENT.get(colours, len(body)))
            or zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[end - 4 : end])
        ):
            kept.append(data[done:start])
            done = end
    return data if not kept else b"".join([*kept, data[done:]])


def significant_bits(data: bytes) -> int | None:
    """Return the first number of a PNG's `sBIT`, or None."""
    for kind, start, end in _chunks(data):
        if kind == b"sBIT" and end - start > 12:
            return data[start + 8]
        if kind == b"IDAT":
            return None
    return None


def mend_transparency(image: PngImagePlugin.PngImageFile, data: bytes) -> None:
    """Scale the transparent colour like the pixels, if Pillow does not.

    In the file it has the samples' own bits. Pillow scales pixels of 2- and 4-bit grey to
    8 bits. For colours of 16 bits see `deep_colours.py`.
    """
    colour, depth = image.info.get("transparency"), data[_DEPTH]
    if isinstance(colour, str):  # a text chunk named `transparency`
        del image.info["transparency"]
    elif image.mode == "L" and isinstance(colour, int):
        image.info["transparency"] = colour * (255 // (2**depth - 1))


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's kind, start and end; the end may be beyond `data`."""
    place = _SIGNATURE
    while place + 12 <= len(data):
        kind = data[place + 4 : place + 8]
        end = place + 12 + int.from_bytes(data[place : place + 4])
        yield kind, place, end
        place = end


def _unpacked_size(kind: bytes, body: bytes, room: int) -> int:
    """Return the unpacked bytes of a text or profile; more than `room` if unreadable."""
    packed = _packed(kind, body)
    if room < 0 or packed is None:
        return len(body)
    if packed[:1] != b"\0":
        return room + 1  # unknown compression method
    try:
        return len(zlib.decompressobj().decompress(packed[1:], room + 1))
    except zlib.error:
        return len(body)  # Pillow ignores it


def _packed(kind: bytes, body: bytes) -> bytes | None:
    """Return the compression method and the compressed bytes; None for plain text."""
    _, _, rest = body.partition(b"\0")
    if kind == b"tEXt":
        return None
    if kind != b"iTXt":
        return rest
    method, texts = rest[1:2], rest[2:].split(b"\0", 2)  # language, translation, text
    return method + texts[2] if rest[:1] == b"\1" and len(texts) == 3 else None
