"""GIF: a limit on the blocks before the first image, and what is around that image."""

from PIL import Image
from PIL.GifImagePlugin import GifImageFile

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


def first_image_box(image: GifImageFile) -> tuple[int, int, int, int] | None:
    """Return the box of the first image within the screen; None if it fills the screen.

    Args:
        image: opened, not loaded.
    """
    box = image.tile[0].extents if image.tile else None
    return None if box in (None, (0, 0, *image.size)) else box


def alone_on_white(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return an RGB image in which all but `box` is white.

    The screen around the first image is transparent, as browsers show it. Pillow gives it
    the first colour of the palette, unless a colour is transparent.
    """
    result = Image.new("RGB", image.size, "white")
    result.paste(image.crop(box), box)
    return result
