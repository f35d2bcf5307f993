"""Scores of many embeddings without a matrix of all of them against the whole bank."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

_BLOCK = 1024  # embeddings whose products with the bank are held at once

Score = Callable[[Float[np.ndarray, "_ d"]], Float[np.ndarray, " _"]]


def in_blocks(score: Score, embeddings: Float[np.ndarray, "b d"]) -> np.ndarray:
    """Return `score` of the embeddings, [b], computed a thousand at a time."""
    starts = range(0, max(len(embeddings), 1), _BLOCK)
    return np.concatenate([score(embeddings[start : start + _BLOCK]) for start in starts])
