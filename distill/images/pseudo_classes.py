"""Classes for images that have none: clusters of the teacher's features."""

import faiss
import numpy as np
from jaxtyping import Float, Int64

from bundle import UsageError

_ITERATIONS = 20


def pseudo_classes(
    features: Float[np.ndarray, "n d"], count: int, seed: int
) -> Int64[np.ndarray, " n"]:
    """Return a cluster number below `count` for each image.

    Spherical k-means on the unit-norm features: 20 iterations of faiss, on at most 256
    images per cluster drawn with `seed`; then every image gets the cluster whose centre
    has the largest cosine. Our extension: it lets objectives that need classes, such as
    ND (arXiv:2305.17007), learn from images without. Equal on one machine for one seed;
    with many threads the last digits of a centre may differ elsewhere.

    Raises:
        UsageError: there are fewer images than clusters, or fewer than two clusters.
    """
    if not 2 <= count <= len(features):
        raise UsageError(
            f"Expected from 2 to {len(features)} pseudo-classes, as many as there are "
            f"training images at most, got {count}. Change `[data] pseudo_classes`."
        )
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
