"""Which images are copies of one another: equal, or saved again, scaled or brightened.

An image in two roles makes every figure wrong: the test measures memory, and a
calibration on copies of training images flags everything new. So copies are found by
small grey thumbnails, made while the images are read.

Measured, 1,500 images each: a JPEG of quality 85 made again is at 0.01 (95 %: 0.02) of a
photograph and at 0.02 (0.03) of a Tiny ImageNet image, one of quality 50 at 0.01 and 0.05;
half the size 0.03 and 0.07. The nearest two different images are at 0.67 among 150
photographs, 0.33 in Tiny ImageNet and Omniglot, 0.09 in Fashion-MNIST. Flat images are
copies only if their thumbnails are equal.
"""

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from PIL import Image

SIDE = 16  # pixels
COPY_DISTANCE = 0.08

_FLAT = 1.0  # standard deviation of the grey levels, of 255
_COARSE = 16  # directions in which pairs are sought before they are compared in full
_BLOCK = 1024  # rows that are compared at once, or fewer, so that there are at most
_CELLS = 2**22  # pairs

Thumbnail = UInt8[np.ndarray, "16 16"]


def thumbnail(image: Image.Image) -> Thumbnail:
    """Return the grey means of 16 x 16 boxes of an image."""
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8)


def pictures(
    thumbnails: UInt8[np.ndarray, "n 16 16"], distance: float = COPY_DISTANCE
) -> Int[np.ndarray, " n"]:
    """Return which picture each image shows: copies, and copies of copies, share a number.

    Args:
        thumbnails: of the images.
        distance: between two thumbnails, each without its mean and of unit norm, up to
            which they are of one picture; 0 for equal ones alone.
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
    centred = rows - rows.mean(axis=1, keepdims=True, dtype=np.float32)
    norms = np.linalg.norm(centred, axis=1)
    kept = np.flatnonzero(norms > _FLAT * SIDE)
    units = centred[kept] / norms[kept, None]
    _, directions = np.linalg.eigh(units.T @ units)
    coarse = units @ directions[:, : -_COARSE - 1 : -1]
    order = np.argsort(coarse[:, 0], kind="stable")
    kept, units, coarse = kept[order], units[order], np.ascontiguousarray(coarse[order])
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
        new = joined[kept[ours]] != joined[kept[theirs]]  # the others need no comparison
        ours, theirs = ours[new], theirs[new]
        close = np.zeros(len(ours), bool)
        for part in range(0, len(ours), _CELLS // SIDE**2):
            one = slice(part, part + _CELLS // SIDE**2)
            gaps = units[ours[one]] - units[theirs[one]]
            close[one] = np.linalg.norm(gaps, axis=1) <= distance
        if close.any():
            joined = _join(joined, kept[ours[close]], kept[theirs[close]])
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
