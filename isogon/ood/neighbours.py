"""Nearest neighbours by cosine, in blocks, and whether two models agree on them."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, Shaped

BLOCK = 1024  # queries whose products with the bank are in memory at once
NEIGHBOURS = 10  # in all of Isogon: overlap@10, kNN with k = 10
Scored = Callable[[Float[np.ndarray, "_ d"]], Shaped[np.ndarray, "_ ..."]]


def in_blocks(
    answer: Scored, queries: Float[np.ndarray, "n d"]
) -> Shaped[np.ndarray, "n ..."]:
    """Return `answer` of all queries, computed `BLOCK` rows at a time."""
    starts = range(0, max(len(queries), 1), BLOCK)
    return np.concatenate([answer(queries[start : start + BLOCK]) for start in starts])


def nearest(cosines: Float[np.ndarray, "n bank"], k: int) -> Int[np.ndarray, "n k"]:
    """Return, per row, the indices of the k largest cosines, in no order."""
    return np.argpartition(-cosines, k - 1, axis=1)[:, :k]


def neighbour_overlap(
    reference: Float[np.ndarray, "n bank"],
    candidate: Float[np.ndarray, "n bank"],
    *,
    k: int = NEIGHBOURS,
    tie: float = 0.0,
) -> float:
    """Return the mean share of the candidate's k nearest that are also the reference's.

    Args:
        reference: cosines of n queries with a bank.
        candidate: the cosines of another model.
        k: number of neighbours; at most the size of the bank.
        tie: a neighbour counts if its reference cosine is within this of the k-th.

    A NaN in the candidate gives NaN.
    """
    return float(neighbours_kept(reference, candidate, k=k, tie=tie).mean())


def neighbours_kept(
    reference: Float[np.ndarray, "n bank"],
    candidate: Float[np.ndarray, "n bank"],
    *,
    k: int = NEIGHBOURS,
    tie: float = 0.0,
) -> Float[np.ndarray, " n"]:
    """Return `neighbour_overlap` for each query."""
    kth = -np.partition(-reference, k - 1, axis=1)[:, k - 1 : k]
    chosen = np.take_along_axis(reference, nearest(candidate, k), axis=1)
    shares: Float[np.ndarray, " n"] = (chosen >= kth - tie).mean(axis=1)
    shares[np.isnan(candidate).any(axis=1)] = np.nan
    return shares
