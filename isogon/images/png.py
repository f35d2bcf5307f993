"""PNG's chunks: the metadata that must not hinder decoding, and what grey samples mean."""

import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

from isogon.errors import ImageError, ImageProblem

_SIGNATURE = 8  # bytes
_DEPTH = 24  # where the bits of a sample stand
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PROFILE = b"iCCP"
_LENGTHS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}  # bytes; else they are damaged
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_MOST_CHUNKS = 100_000  # libpng writes one for each 8 KiB
_ROOM = 4 * 2**20  # bytes of texts and profile that are read, unpacked

# Pillow calls a file damaged in which one text or the profile unpacks to more than 1 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = _ROOM


def without_excess(data: bytes) -> bytes:
    """Return a PNG without the metadata that is damaged or larger than is read.

    Left out are auxiliary chunks with a wrong checksum or length, texts and profiles
    once they unpack to more than 4 MiB together, and an animation's later frames. Most
    files come back as they are.

    Raises:
        ImageError: it has more chunks than any writer makes.
    """
    room = _ROOM
    kept: list[bytes] = []
    done = 0
    for number, (kind, start, end) in enumerate(_chunks(data)):
        if number == _MOST_CHUNKS:
            raise ImageError(
                ImageProblem.TOO_LARGE,
                f"has more than {_MOST_CHUNKS:,} chunks. Save it again as PNG.",
            )
        if kind[0] < ord("a") or end > len(data):
            continue  # pixels and what they need, or cut off: the decoder judges those
        body = data[start + 8 : end - 4]
        read = kind in _TEXTS or kind == _PROFILE
        if read:
            room -= _unpacked_size(kind, body, room)
        if (
            (read and room < 0)
            or kind in _ANIMATION
            or len(body) != _LENGTHS.get(kind, len(body))
            or zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[end - 4 : end])
        ):
            kept.append(data[done:start])
            done = end
    return data if not kept else b"".join([*kept, data[done:]])


def significant_bits(data: bytes) -> int | None:
    """Return the first number of a PNG's `sBIT`, or None where it has none."""
    for kind, start, end in _chunks(data):
        if kind == b"sBIT" and end - start > 12:
            return data[start + 8]
        if kind == b"IDAT":
            return None
    return None


def mend_transparency(image: PngImagePlugin.PngImageFile, data: bytes) -> None:
    """Bring the transparent colour to the scale of the pixels, where Pillow does not.

    In the file it has the samples' own bits. Pillow brings grey of 2 and 4 bits to 8, and
    of colours of 16 bits it keeps the high byte.
    """
    colour, depth = image.info.get("transparency"), data[_DEPTH]
    if isinstance(colour, str):  # a text of this name
        del image.info["transparency"]
    elif image.mode == "L" and isinstance(colour, int):
        image.info["transparency"] = colour * (255 // (2**depth - 1))
    elif image.mode == "RGB" and isinstance(colour, tuple) and depth == 16:
        image.info["transparency"] = tuple(sample >> 8 for sample in colour)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's kind, its start and its end in `data`, which may lie beyond."""
    place = _SIGNATURE
    while place + 12 <= len(data):
        kind = data[place + 4 : place + 8]
        end = place + 12 + int.from_bytes(data[place : place + 4])
        yield kind, place, end
        place = end


def _unpacked_size(kind: bytes, body: bytes, room: int) -> int:
    """Return the bytes of a text or a profile; more than `room` if it is not to be read."""
    packed = _packed(kind, body)
    if room < 0 or packed is None:
        return len(body)
    if packed[:1] != b"\0":
        return room + 1  # a method of compression that does not exist
    try:
        return len(zlib.decompressobj().decompress(packed[1:], room + 1))
    except zlib.error:
        return len(body)  # Pillow passes over what does not unpack


def _packed(kind: bytes, body: bytes) -> bytes | None:
    """Return the method of compression and what follows; None of a text that is plain."""
    _, _, rest = body.partition(b"\0")
    if kind == b"tEXt":
        return None
    if kind != b"iTXt":
        return rest
    method, texts = rest[1:2], rest[2:].split(b"\0", 2)  # language, translation, text
    return method + texts[2] if rest[:1] == b"\1" and len(texts) == 3 else None
