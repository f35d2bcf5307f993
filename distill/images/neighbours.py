"""Batches of neighbours, as in CoSS (arXiv:2409.13939).

Neighbours are computed once, from the teacher's features of the training images without
augmentation. An image is identified by its position among the training images.
"""

from hashlib import sha256
from pathlib import Path

import faiss
import numpy as np
from filelock import FileLock
from jaxtyping import Float, Int32, Int64, Integer

from isogon.errors import UsageError

GROUP = 16  # images of a batch that belong together: an anchor and 15 neighbours
DRAWN = GROUP - 1  # neighbours of an anchor in a batch
AMONG = 31  # nearest images among which they are drawn
NEAREST = 384  # neighbours that the authors store per image
_BLOCK = 4096  # queries per search


def kept_neighbours(
    folder: Path, features: Float[np.ndarray, "n d"]
) -> Int32[np.ndarray, "n k"]:
    """Return the `AMONG` nearest, memory-mapped from a file in `folder`.

    The file is written first if it is missing. Its name has a hash of the features. One
    process computes it and the others wait.
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


def nearest_neighbours(
    features: Float[np.ndarray, "n d"], k: int = NEAREST, block: int = _BLOCK
) -> Int32[np.ndarray, "n k"]:
    """Return the positions of each image's nearest by cosine, the nearest first.

    The image itself is left out. The search is exact and takes n^2 d multiplications,
    `block` queries at a time. It needs memory for a copy of the features in float32. If
    the result is read by `np.load(mmap_mode="r")` it takes no memory: `neighbour_batches`
    reads only the rows of a batch.

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
        # Among k + 1 duplicates it may not be found: drop the last.
        itself[~itself.any(axis=1), -1] = True
        neighbours[first : first + block] = found[~itself].reshape(-1, k)
    return neighbours


def neighbour_batches(
    neighbours: Integer[np.ndarray, "n k"],
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    drawn: int = DRAWN,
    among: int = AMONG,
) -> list[Int64[np.ndarray, " batch_size"]]:
    """Return the batches of one epoch: anchors, each followed by its neighbours.

    As in the authors' code, `drawn` neighbours are drawn without replacement from an
    anchor's `among` nearest. An epoch has n // batch_size batches, so it shows as many
    images as any epoch. Each image is an anchor about once in drawn + 1 epochs, and never
    twice within these. In one pass of the authors each image is an anchor once; this takes
    drawn + 1 of our epochs (their 25 passes: 400). An image may be in a batch several
    times.

    The result depends on the arguments alone. If a batch is cut into equal parts for R
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
            f"{batch_size}` is not a multiple of that. Set it to "
            f"{max(1, round(batch_size / group)) * group}."
        )
    require_neighbour_batches(n, among, batch_size, drawn=drawn)
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


def require_neighbour_batches(
    images: int, among: int, batch_size: int, *, drawn: int = DRAWN
) -> None:
    """Raise `UsageError` if there are too few images, or neighbours (`among`) of each."""
    if among < drawn or batch_size > images:
        raise UsageError(
            f"Batches of neighbours of {batch_size} images need at least {batch_size} "
            f"training images with {drawn} neighbours each, got {images} images with "
            f'{among}. Add images, lower `batch_size`, or set `batches = "random"`.'
        )
