"""A limit on the blocks of a GIF before its first image."""

from isogon.errors import ImageError, ImageProblem

_EXTENSION = b"!"
_MOST_BLOCKS = 10_000  # of up to 255 bytes each


def require_modest(data: bytes) -> None:
    """Refuse a GIF with millions of comments, which Pillow reads one by one.

    Raises:
        ImageError: there are more blocks before the first image than any writer makes.
    """
    colours = 3 * 2 ** ((data[10] & 7) + 1) if len(data) > 10 and data[10] & 0x80 else 0
    place = 13 + colours
    within = False  # whether in an extension, which ends with an empty block
    for _ in range(_MOST_BLOCKS):
        if not within:
            if data[place : place + 1] != _EXTENSION:
                return
            place += 2
        if place >= len(data):
            return
        within = data[place] > 0
        place += 1 + data[place]
    raise ImageError(
        ImageProblem.TOO_LARGE,
        f"has more than {_MOST_BLOCKS:,} blocks before its first image. Save it again.",
    )
