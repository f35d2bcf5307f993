"""Find images that are copies of one another: equal, saved again, scaled or mirrored.

A picture in two roles makes every figure wrong: the test then measures memory, and a
calibration on copies of training images flags every new image. So copies are found by
small grey thumbnails, which are made while the images are read.

Measured on 150 photographs, 1,500 images of Tiny ImageNet, 500 textures (DTD), 800 of
Omniglot and 1,500 of Fashion-MNIST. The share of copies found, in this order:
JPEG of quality 85 again: 1, 1, 0.93, 1, 1; mirrored and saved again: 1, 0.99, 0.86, 1,
0.99; three quarters of the size: 1, 1, 0.92, 1, about 0.9; half the size, smoothed
(bicubic): 1, 1, 0.93, 1, and none of Fashion-MNIST, whose 28 pixels become 14. Half the
size without smoothing: 0.97, 0.01, 0.37, 0.04, 0. Without the outermost pixel, of 500 x
375 pixels: 0.96; of 64 x 64, where a pixel is a quarter of a box: 0.06. So cropped and
shifted copies of small images are not found: a distance that finds them would also join
different garments.

The nearest two different images are at 0.67, 0.38, 0.08, 0.39 and 0.08, mirrored at 0.56,
0.35, 0.31, 0.44 and 0.12, so none was taken for a copy; four pairs of the textures, at
0.01 to 0.03, are true copies. Images that differ only by mirroring, such as a drawn b and
d, count as copies. Flat images are copies only if their thumbnails are equal.
"""

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from PIL import Image

SIDE = 16  # pixels
COPY_DISTANCE = 0.08

_MIRRORED = 0.5  # of that distance, between an image and a mirrored one
_FLAT = 1.0  # standard deviation of the grey levels, of 255
_COARSE = 16  # directions for a first comparison of pairs, before the full one
_BLOCK = 1024  # rows compared at once; fewer if there would be more pairs than
_CELLS = 2**22

Thumbnail = UInt8[np.ndarray, "16 16"]


def thumbnail(image: Image.Image) -> Thumbnail:
    """Return an image in grey, 16 x 16 pixels.

    Bicubic, because averaged boxes would begin at other pixels in a copy of half the size.
    """
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(small, dtype=np.uint8)


def pictures(
    thumbnails: UInt8[np.ndarray, "n 16 16"], distance: float = COPY_DISTANCE
) -> Int[np.ndarray, " n"]:
    """Return the picture of each image: copies, and copies of copies, have the same number.

    Args:
        thumbnails: of the images.
        distance: the largest one between two thumbnails of one picture, each with mean 0
            and norm 1; half of it if one is mirrored. 0: only equal thumbnails.
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
    """Return for each row the first row that it is joined with.

    Rows are sorted along the direction in which they differ most, and only rows near in it
    are compared: first in a few directions, where their distance is never larger, then in
    full. 100,000 rows take a few seconds, even if all are near.
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
        new = joined[image[ours]] != joined[image[theirs]]  # the others are joined already
        new &= ~(turned[ours] & turned[theirs])  # the same as the two that are not mirrored
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
    """Return which pairs are within the distance, with a margin for rounding."""
    squares = (ours**2).sum(1)[:, None] + (theirs**2).sum(1)[None]
    near: np.ndarray = squares - 2 * (ours @ theirs.T) <= distance**2 + 1e-5
    return near


def _join(
    numbers: Int[np.ndarray, " n"],
    first: Int[np.ndarray, " p"],
    second: Int[np.ndarray, " p"],
) -> Int[np.ndarray, " n"]:
    """Return the smallest number that each is joined with, through any chain of pairs."""
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
