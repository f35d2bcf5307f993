"""Which images are copies of one another: equal, saved again, scaled or mirrored.

An image in two roles makes every figure wrong: the test measures memory, and a
calibration on copies of training images flags everything new. So copies are found by
small grey thumbnails, made while the images are read.

Measured on 150 photographs, 1,500 images of Tiny ImageNet, 500 textures (DTD), 800 of
Omniglot and 1,500 of Fashion-MNIST. Shares of copies that are found, in this order:
JPEG of quality 85 again: 1, 1, 0.93, 1, 1; mirrored and saved again: 1, 0.99, 0.86, 1,
0.99; three quarters of the size: 1, 1, 0.92, 1, about 0.9; half the size, smoothed
(bicubic): 1, 1, 0.93, 1, and none of Fashion-MNIST, whose 28 pixels become 14. Half the
size without smoothing: 0.97, 0.01, 0.37, 0.04, 0. Without the outermost pixel, of 500 x
375 pixels: 0.96; of 64 x 64, where it is a quarter of a box: 0.06. So cut and shifted
copies of small images are not found: a distance that finds them joins different garments.

The nearest two different images are at 0.67, 0.38, 0.08, 0.39 and 0.08, mirrored at 0.56,
0.35, 0.31, 0.44 and 0.12, so that none was taken for a copy; among the textures four
pairs at 0.01 to 0.03 are copies. What differs by mirroring alone, such as a drawn b and
d, counts as copies. Flat images are copies only if their thumbnails are equal.
"""

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from PIL import Image

SIDE = 16  # pixels
COPY_DISTANCE = 0.08

_MIRRORED = 0.5  # of that distance, for an image and the mirrored other
_FLAT = 1.0  # standard deviation of the grey levels, of 255
_COARSE = 16  # directions in which pairs are sought before they are compared in full
_BLOCK = 1024  # rows that are compared at once, or fewer, so that there are at most
_CELLS = 2**22  # pairs

Thumbnail = UInt8[np.ndarray, "16 16"]


def thumbnail(image: Image.Image) -> Thumbnail:
    """Return an image in grey, 16 x 16 pixels.

    Bicubic: of half the size as many boxes would begin at other pixels, and differ.
    """
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(small, dtype=np.uint8)


def pictures(
    thumbnails: UInt8[np.ndarray, "n 16 16"], distance: float = COPY_DISTANCE
) -> Int[np.ndarray, " n"]:
    """Return which picture each image shows: copies, and copies of copies, share a number.

    Args:
        thumbnails: of the images.
        distance: between two thumbnails, each without its mean and of unit norm, up to
            which they are of one picture, and half of it where one is mirrored; 0 for
            equal ones alone.
    """
    rows = thumbnails.reshape(len(thumbnails), SIDE * SIDE)
    first: dict[bytes, int] = {}
    equal = np.array(
        [first.setdefault(row.tobytes(), i) for i, row in enumerate(rows)], int
    )
    different = np.unique(equal)
    if distance == 0 or len(different) < 2:
        return equal
    numbers = np.arange(len(rows))
    numbers[different] = different[_near(rows[different], distance)]
    joined: np.ndarray = numbers[equal]
    return joined


def _near(rows: UInt8[np.ndarray, "n 256"], distance: float) -> Int[np.ndarray, " n"]:
    """Return for each row the first of those that it is joined with.

    Along the direction in which the rows differ most, only those near enough are compared,
    first in a few directions, in which they are as near or nearer. 100,000 rows take some
    seconds, also where all are near.
    """
    joined = np.arange(len(rows))
    mirrored = rows.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(rows.shape)
    both = np.concatenate([rows, mirrored])
    centred = both - both.mean(axis=1, keepdims=True, dtype=np.float32)
    norms = np.linalg.norm(centred, axis=1)
    kept = np.flatnonzero(norms > _FLAT * SIDE)
    units = centred[kept] / norms[kept, None]
    _, directions = np.linalg.eigh(units.T @ units)
    coarse = units @ directions[:, : -_COARSE - 1 : -1]
    order = np.argsort(coarse[:, 0], kind="stable")
    kept, units, coarse = kept[order], units[order], np.ascontiguousarray(coarse[order])
    image, turned = kept % len(rows), kept >= len(rows)
    along, start = coarse[:, 0], 0
    while start < len(kept):
        block = _BLOCK
        while True:
            last = along[min(start + block, len(kept)) - 1]
            stop = int(np.searchsorted(along, last + distance, "right"))
            if block == 1 or block * (stop - start) <= _CELLS:
                break
            block //= 2
        ours, theirs = np.nonzero(
            _within(coarse[start : start + block], coarse[start:stop], distance)
        )
        ours, theirs = ours + start, theirs + start
        new = joined[image[ours]] != joined[image[theirs]]  # others need no comparison
        new &= ~(turned[ours] & turned[theirs])  # as near as the two that are not
        ours, theirs = ours[new], theirs[new]
        limit = np.where(turned[ours] | turned[theirs], _MIRRORED * distance, distance)
        close = np.zeros(len(ours), bool)
        for part in range(0, len(ours), _CELLS // SIDE**2):
            one = slice(part, part + _CELLS // SIDE**2)
            gaps = units[ours[one]] - units[theirs[one]]
            close[one] = np.linalg.norm(gaps, axis=1) <= limit[one]
        if close.any():
            joined = _join(joined, image[ours[close]], image[theirs[close]])
        start += block
    return joined


def _within(
    ours: Float32[np.ndarray, "a d"], theirs: Float32[np.ndarray, "b d"], distance: float
) -> Bool[np.ndarray, "a b"]:
    """Return which are within the distance, and a little more for rounding."""
    squares = (ours**2).sum(1)[:, None] + (theirs**2).sum(1)[None]
    near: np.ndarray = squares - 2 * (ours @ theirs.T) <= distance**2 + 1e-5
    return near


def _join(
    numbers: Int[np.ndarray, " n"],
    first: Int[np.ndarray, " p"],
    second: Int[np.ndarray, " p"],
) -> Int[np.ndarray, " n"]:
    """Return the smallest number that each is joined with, over any of the pairs."""
    while True:
        ours, theirs = numbers[first], numbers[second]
        if np.array_equal(ours, theirs):
            return numbers
        found = numbers.copy()
        np.minimum.at(found, ours, theirs)  # the roots of both
        np.minimum.at(found, theirs, ours)
        while not np.array_equal(found, found[found]):
            found = found[found]
        numbers = found
