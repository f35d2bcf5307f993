"""The first image of an animation may be smaller than its canvas: around it is white.

In a browser the rest of the canvas is transparent. Pillow gives it the first colour of a
GIF's palette, or black in a WebP, unless the file has transparency.
"""

from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.WebPImagePlugin import WebPImageFile

Box = tuple[int, int, int, int]  # left, top, right, bottom

_CHUNKS = 12  # where those of a WebP begin
_MOST_CHUNKS = 100  # before the first frame


def first_frame_box(image: Image.Image, data: bytes) -> Box | None:
    """Return the box of the first image on its canvas; None: it fills the canvas.

    Args:
        image: opened, not loaded.
        data: its file.
    """
    box = None
    if isinstance(image, GifImageFile) and image.tile:
        box = image.tile[0].extents
    elif isinstance(image, WebPImageFile) and image.mode == "RGB":
        box = _in_webp(data)
    return None if box == (0, 0, *image.size) else box


def alone_on_white(image: Image.Image, box: Box) -> Image.Image:
    """Return an RGB image in which all but `box` is white."""
    result = Image.new("RGB", image.size, "white")
    result.paste(image.crop(box), box)
    return result


def _in_webp(data: bytes) -> Box | None:
    place = _CHUNKS
    for _ in range(_MOST_CHUNKS):
        kind, size = data[place : place + 4], data[place + 4 : place + 8]
        if kind == b"ANMF":
            numbers = data[place + 8 : place + 20]
            left, top, width, height = (
                int.from_bytes(numbers[at : at + 3], "little") for at in (0, 3, 6, 9)
            )
            return (
                2 * left,
                2 * top,
                2 * left + width + 1,
                2 * top + height + 1,
            )
        if kind in (b"VP8 ", b"VP8L", b""):
            return None
        length = int.from_bytes(size, "little")
        place += 8 + length + length % 2
    return None
