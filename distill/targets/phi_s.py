"""PHI-S: features of different teachers on one scale, with all distances unchanged.

It is a rotation to the principal components, a Hadamard rotation that spreads their
variance evenly over all channels, and one number for the scale. Every channel then has the
same variance, and all distances are the same up to that number. Reference: Ranzinger et
al., "PHI-S: Distribution Balancing for Label-Free Multi-Teacher Distillation",
arXiv:2410.01680. Written from the formula: with the eigenvectors U and eigenvalues l of the
covariance and a Hadamard matrix H of orthonormal rows,

    phi_s(x) = a H U^T (x - mean),    a = 1 / sqrt(mean(l)).

Where we differ: there is no Hadamard matrix whose width is not a multiple of 4, and for
some multiples of 4 we know none. A chain of plane rotations then does the same (Schur and
Horn: a symmetric matrix can be rotated until its diagonal is constant).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_BLOCK = 4096  # rows summed at once


@dataclass(frozen=True, kw_only=True, slots=True)
class PhiS:
    """The map of one distribution of features, for those that are centred.

    `distill.targets.joint` uses it without centring: a shift moves no distance.
    """

    rotation: Float[np.ndarray, "d d"]  # orthogonal: H U^T
    scale: float

    @classmethod
    def estimated(cls, features: Float[np.ndarray, "n d"]) -> "PhiS":
        """Return the map that gives these features unit variance in every channel.

        Computed in float64. If the features do not vary, the scale is 1.
        """
        covariance = _covariance(features)
        values, vectors = np.linalg.eigh(covariance)
        variance = float(values.mean())
        spread = _evenly_spreading(values[::-1])
        return cls(
            rotation=spread @ vectors[:, ::-1].T,
            scale=1 / math.sqrt(variance) if variance > 0 else 1.0,
        )


def _covariance(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """Return the covariance in float64, block by block: features may be on disk."""
    count, width = features.shape
    mean = features.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((width, width))
    for first in range(0, count, _BLOCK):
        centred = features[first : first + _BLOCK].astype(np.float64) - mean
        covariance += centred.T @ centred / count
    return covariance


def _evenly_spreading(values: Float[np.ndarray, " d"]) -> Float[np.ndarray, "d d"]:
    """Return an orthogonal Q for which Q diag(values) Q^T has a constant diagonal."""
    matrix = hadamard(len(values))
    if matrix is not None:
        return matrix / math.sqrt(len(values))
    return _chain_of_rotations(values)


def hadamard(order: int) -> Float[np.ndarray, "n n"] | None:
    """Return a matrix of 1 and -1 with orthogonal rows, or None where none is known.

    By the constructions of Sylvester (powers of 2), Paley (q + 1 and 2 (q + 1) for primes
    q) and their Kronecker products: all usual widths of networks.
    """
    if order == 1:
        return np.ones((1, 1))
    if order % 2:
        return None
    paley = _paley(order)
    if paley is not None:
        return paley
    half = hadamard(order // 2)
    return None if half is None else np.kron(np.array([[1.0, 1.0], [1.0, -1.0]]), half)


def _paley(order: int) -> Float[np.ndarray, "n n"] | None:
    if order == 2:
        return np.array([[1.0, 1.0], [1.0, -1.0]])
    if order % 4:
        return None
    if _is_prime(order - 1):  # then q = 3 modulo 4: the border is skew
        core = np.pad(_residues(order - 1), ((1, 0), (1, 0)))
        core[0, 1:], core[1:, 0] = 1, -1
        found: Float[np.ndarray, "n n"] = np.eye(order) + core
        return found
    q = order // 2 - 1
    if _is_prime(q) and q % 4 == 1:
        core = np.pad(_residues(q), ((1, 0), (1, 0)))
        core[0, 1:], core[1:, 0] = 1, 1
        ones = np.array([[1.0, 1.0], [1.0, -1.0]])
        zeros = np.array([[1.0, -1.0], [-1.0, -1.0]])
        return np.kron(core, ones) + np.kron(np.eye(q + 1), zeros)
    return None


def _residues(q: int) -> Float[np.ndarray, "q q"]:
    """Return the Legendre symbols of i - j modulo the prime q."""
    symbols = -np.ones(q)
    symbols[np.arange(1, q) ** 2 % q] = 1
    symbols[0] = 0
    matrix: Float[np.ndarray, "q q"] = symbols[
        (np.arange(q)[:, None] - np.arange(q)[None, :]) % q
    ]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % other for other in range(2, math.isqrt(number) + 1))


def _chain_of_rotations(values: Float[np.ndarray, " d"]) -> Float[np.ndarray, "d d"]:
    """Return Q as in `_evenly_spreading`, by one plane rotation after another.

    Each rotation takes a channel below the mean variance and one above it. Afterwards the
    first has exactly the mean, and the other has the rest.
    """
    width = len(values)
    mean = float(values.mean())
    rotation = np.eye(width)
    order = np.argsort(values)
    low, high = (
        [int(i) for i in order if values[i] < mean],
        [int(i) for i in order if values[i] >= mean],
    )
    left = values.astype(np.float64).copy()
    while low and high:
        first, other = low.pop(), high.pop()
        gap = left[other] - left[first]
        share = (mean - left[first]) / gap if gap > 0 else 0.0  # of the other's variance
        cosine, sine = math.sqrt(max(0.0, 1 - share)), math.sqrt(max(0.0, share))
        rows = rotation[first].copy(), rotation[other].copy()
        rotation[first] = cosine * rows[0] + sine * rows[1]
        rotation[other] = cosine * rows[1] - sine * rows[0]
        left[other] -= mean - left[first]
        left[first] = mean
        (low if left[other] < mean else high).append(other)
    return rotation
