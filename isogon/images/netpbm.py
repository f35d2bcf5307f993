"""PPM and PGM files with a maximum other than 255 and 65535, decoded with numpy.

Pillow decodes these sample by sample in Python. A file of 20 MB takes ten seconds, during
which no other thread runs.
"""

import numpy as np
from PIL import Image
from PIL.PpmImagePlugin import PpmImageFile

from isogon.images.sample_range import Range, levels


def is_unusual(image: Image.Image) -> bool:
    """Return whether an opened image is such a file."""
    return isinstance(image, PpmImageFile) and image.tile[0].codec_name == "ppm"


def unusual(image: Image.Image, data: bytes, stated: Range | None) -> Image.Image:
    """Return the image in 8 bits, grey or RGB.

    Args:
        image: opened, not loaded.
        data: its file.
        stated: the range of grey samples of more than 8 bits; None: the file's.

    Raises:
        ValueError: the file is truncated.
    """
    assert isinstance(image, PpmImageFile)
    tile = image.tile[0]
    assert isinstance(tile.args, tuple)
    largest = int(tile.args[1])
    deep = largest > 255
    shape = (image.height, image.width) + ((3,) if image.mode == "RGB" else ())
    count = int(np.prod(shape))
    samples = np.frombuffer(data, ">u2" if deep else "u1", count, tile.offset).reshape(
        shape
    )
    limits = stated if stated and deep and image.mode != "RGB" else (0.0, float(largest))
    return Image.fromarray(levels(samples, limits))
