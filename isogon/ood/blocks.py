"""Queries against a bank, without a matrix of all queries against the whole bank."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Shaped

BLOCK = 1024  # queries whose products with the bank are held at once

Scored = Callable[[Float[np.ndarray, "_ d"]], Shaped[np.ndarray, "_ ..."]]


def in_blocks(
    answer: Scored, queries: Float[np.ndarray, "n d"]
) -> Shaped[np.ndarray, "n ..."]:
    """Return `answer` of the queries, row by row, computed a thousand at a time."""
    starts = range(0, max(len(queries), 1), BLOCK)
    return np.concatenate([answer(queries[start : start + BLOCK]) for start in starts])
