"""Classes for images that have none: clusters of the teacher's features."""

import faiss
import numpy as np
from jaxtyping import Float, Int64

from isogon.errors import UsageError

_ITERATIONS = 20


def pseudo_classes(
    features: Float[np.ndarray, "n d"], count: int, seed: int
) -> Int64[np.ndarray, " n"]:
    """Return a cluster number below `count` for each image.

    Spherical k-means on the unit-norm features: 20 iterations of faiss, on at most 256
    images per cluster drawn with `seed`. Then each image gets the cluster whose centre has
    the largest cosine. This is our extension, so that objectives that need classes, such as
    ND (arXiv:2305.17007), can learn from images without classes. One seed gives the same
    result on one machine; on another machine the last digits of a centre may differ.

    Raises:
        UsageError: there are fewer images than clusters, or fewer than two clusters.
    """
    require_clusters(len(features), count)
    directions = np.array(features, np.float32, order="C")  # a copy
    faiss.normalize_L2(directions)
    clustering = faiss.Kmeans(
        directions.shape[1],
        count,
        niter=_ITERATIONS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,  # faiss warns on stderr below this
    )
    clustering.train(directions)
    _, numbers = clustering.assign(directions)
    return np.asarray(numbers, np.int64)


def require_clusters(images: int, count: int) -> None:
    """Raise `UsageError` if there are too few images for `count` pseudo-classes."""
    if not 2 <= count <= images:
        raise UsageError(
            f"Expected from 2 to {images} pseudo-classes, at most the number of training "
            f"images, got {count}. Change `[data] pseudo_classes`."
        )
