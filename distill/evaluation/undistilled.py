"""The student's network before training, as embeddings that stand beside the student's.

Someone who does not distil takes the small network's pooled vectors as they are. At the
student's width that is their uncentred PCA, which keeps the most of their inner products
(Eckart and Young, 1936). What training adds is the difference to that.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from torch import nn

from distill.embedding import Embedded, Embeddings
from distill.start.before import Before
from distill.start.closed_form import uncentred_pca


@dataclass(frozen=True, kw_only=True, slots=True)
class Untrained:
    """Unit-norm embeddings of the student's network before training."""

    undistilled: Embedded  # its own vectors, at most as wide as the student's
    start: Embedded | None  # by the closed-form layer, where the student starts from one
    pretrained: bool  # whether the network had pretrained weights


def untrained(embedded: Embeddings, before: Before | None, width: int) -> Untrained | None:
    """Return what the network before training makes of the images, where it is at hand.

    Args:
        embedded: every model's embeddings.
        before: the student before training.
        width: the student's.
    """
    pooled = embedded.pooled
    if before is None or pooled is None:
        return None
    return Untrained(
        undistilled=undistilled(pooled, width),
        start=None if before.layer is None else started(pooled, before.layer),
        pretrained=before.pretrained,
    )


def undistilled(pooled: Embedded, width: int) -> Embedded:
    """Return unit vectors at most `width` wide that keep the cosines of `pooled`.

    By uncentred PCA of the bank's unit vectors; these themselves where they fit.
    """
    directions = pooled.mapped(unit)
    if pooled.bank.shape[1] <= width:
        return directions
    known = directions.bank[directions.bank.any(axis=1)]
    axes = uncentred_pca(known, width)
    return directions.mapped(lambda vectors: unit(vectors @ axes.T))


def started(pooled: Embedded, layer: nn.Linear) -> Embedded:
    """Return the unit vectors that a linear layer makes of `pooled`."""
    weight = layer.weight.detach().cpu().numpy()
    bias = 0.0 if layer.bias is None else layer.bias.detach().cpu().numpy()
    return pooled.mapped(lambda vectors: unit(vectors @ weight.T + bias))


def unit(vectors: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Return the vectors divided by their norms; an empty vector stays empty."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: np.ndarray = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return found
