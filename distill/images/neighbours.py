"""Batches of neighbours, as CoSS trains on them (arXiv:2409.13939).

Neighbours are computed once, from the teacher's features of the training images without
augmentation. An image is named by its place among them.
"""

from hashlib import sha256
from pathlib import Path

import faiss
import numpy as np
from filelock import FileLock
from jaxtyping import Float, Int32, Int64, Integer

from isogon.errors import UsageError

GROUP = 16  # images in a batch that belong together: an anchor and 15
_BLOCK = 4096
NEAREST = 384  # what the authors keep per image
DRAWN = GROUP - 1
AMONG = 31


def nearest_neighbours(
    features: Float[np.ndarray, "n d"], k: int = NEAREST, block: int = _BLOCK
) -> Int32[np.ndarray, "n k"]:
    """Return, per image, the places of its nearest by cosine, the nearest first.

    The image itself is left out. The search is exact and takes n^2 d multiplications,
    `block` queries at a time; beside the features and the result it needs a copy of the
    features in float32. Kept by `np.save` and read by `np.load(mmap_mode="r")`, the
    result costs no memory: `neighbour_batches` reads a batch's rows only.

    Args:
        features: the teacher's pooled vectors, of any norm.
        k: how many neighbours; at most n - 1 are returned.
        block: queries per search.

    Raises:
        UsageError: there are fewer than two images.
    """
    n = len(features)
    if n < 2:
        raise UsageError(f"Neighbours need at least 2 images, got {n}. Add images.")
    k = min(k, n - 1)
    directions = np.array(features, np.float32, order="C")  # a copy
    faiss.normalize_L2(directions)
    index = faiss.IndexFlatIP(directions.shape[1])
    index.add(directions)
    neighbours = np.empty((n, k), np.int32)
    for first in range(0, n, block):
        _, found = index.search(directions[first : first + block], k + 1)
        places = np.arange(first, first + len(found))
        itself = found == places[:, None]
        itself[~itself.any(axis=1), -1] = True  # behind k + 1 duplicates: drop the last
        neighbours[first : first + block] = found[~itself].reshape(-1, k)
    return neighbours


def kept_neighbours(
    folder: Path, features: Float[np.ndarray, "n d"]
) -> Int32[np.ndarray, "n k"]:
    """Return the `AMONG` nearest, mapped from a file in `folder`, written first.

    The file is named by the features' hash. Of several processes that want it one
    computes and the others wait.
    """
    digest = sha256()
    for first in range(0, len(features), _BLOCK):
        digest.update(features[first : first + _BLOCK].tobytes())
    path = folder / f"neighbours-{digest.hexdigest()[:16]}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            pending = path.with_suffix(".pending.npy")
            np.save(pending, nearest_neighbours(features, AMONG))
            pending.replace(path)
    kept: Int32[np.ndarray, "n k"] = np.load(path, mmap_mode="r")
    return kept


def require_neighbours(
    images: int, among: int, batch_size: int, *, drawn: int = DRAWN
) -> None:
    """Raise `UsageError` unless the images, with `among` neighbours of each, do."""
    if among < drawn or batch_size > images:
        raise UsageError(
            f"Batches of neighbours of {batch_size} images need as many training images "
            f"and {drawn} neighbours of each, got {images} images with {among}. Add "
            f'images, lower `batch_size`, or set `batches = "random"`.'
        )


def neighbour_batches(
    neighbours: Integer[np.ndarray, "n k"],
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    drawn: int = DRAWN,
    among: int = AMONG,
) -> list[Int64[np.ndarray, " batch_size"]]:
    """Return the batches of one epoch: anchors, each followed by neighbours of its own.

    An anchor's neighbours are `drawn` without replacement from its `among` nearest, as
    the authors do. An epoch has n // batch_size batches, which is one image-epoch: each
    image is anchor about once in drawn + 1 epochs, never twice within those, and the
    authors' pass, in which each image is anchor once, takes drawn + 1 of our epochs
    (their 25 passes: 400). An image may come several times in one batch.

    A function of its arguments alone. Where a batch is cut into equal parts for R
    processes, anchors stay with their neighbours if batch_size / R is a multiple of
    drawn + 1.

    Raises:
        UsageError: batch_size is not a multiple of drawn + 1 or exceeds the images, or
            images have fewer than `drawn` neighbours.
    """
    n, group = len(neighbours), drawn + 1
    among = min(among, neighbours.shape[1])
    if batch_size % group:
        raise UsageError(
            f"Batches of neighbours hold groups of {group} images; `batch_size = "
            f"{batch_size}` is no multiple of that. Set it to "
            f"{max(1, round(batch_size / group)) * group}."
        )
    require_neighbours(n, among, batch_size, drawn=drawn)
    anchors_per_batch = batch_size // group
    batches = n // batch_size
    turn, part = divmod(epoch, group)
    order = np.random.default_rng((seed, 0, turn)).permutation(n)
    anchors = order[part * batches * anchors_per_batch :][: batches * anchors_per_batch]
    generator = np.random.default_rng((seed, 1, epoch))
    found = []
    for chosen in anchors.reshape(batches, anchors_per_batch):
        nearest = np.asarray(neighbours[chosen, :among], np.int64)
        followers = generator.permuted(nearest, axis=1)[:, :drawn]
        found.append(np.concatenate([chosen[:, None], followers], axis=1).ravel())
    return found
