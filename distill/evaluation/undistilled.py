"""The student's network before training, and what training gained over it.

Someone who does not distil takes the small network's pooled vectors as they are. At the
student's width that is their uncentred PCA, which keeps the most of their inner products
(Eckart and Young, 1936). What training adds is the difference to that.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from torch import nn

from distill.embedding import Embedded, Embeddings
from distill.evaluation.accuracy import AurocBootstrap, PairedBootstrap
from distill.evaluation.measured import Measured
from distill.start.closed_form import uncentred_pca
from distill.start.fitting import Before
from isogon.bundle.evaluation import (
    DISTORTION,
    KNN_ACCURACY,
    LINEAR_ACCURACY,
    OVERLAP,
    ClassAccuracy,
    Estimate,
    auroc_of,
)
from isogon.images.collection import Indices


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


def gains(
    student: Measured, before: Measured, resamples: Mapping[str, AurocBootstrap]
) -> dict[str, Estimate]:
    """Return the differences of what both have, each with its paired interval.

    Args:
        student: after training.
        before: the same network before it.
        resamples: of the test images and each unfamiliar set, by the set's name.
    """
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if student.kept is not None and before.kept is not None:
        pairs[DISTORTION] = student.kept.distortion, before.kept.distortion
        pairs[OVERLAP] = student.kept.overlap, before.kept.overlap
    if student.right is not None and before.right is not None:
        pairs[KNN_ACCURACY] = student.right, before.right
    if student.right_by_probe is not None and before.right_by_probe is not None:
        pairs[LINEAR_ACCURACY] = student.right_by_probe, before.right_by_probe
    found = {}
    if pairs:
        paired = PairedBootstrap(len(next(iter(pairs.values()))[0]))
        found = {name: paired.difference(*pair) for name, pair in pairs.items()}
    if student.scores is None or before.scores is None:
        return found
    ours, theirs = student.scores, before.scores
    for name in ours.unfamiliar:
        found[auroc_of(name)] = resamples[name].difference(
            (ours.familiar, ours.unfamiliar[name]),
            (theirs.familiar, theirs.unfamiliar[name]),
        )
    return found


def by_class(
    labels: Indices | None,
    classes: tuple[str, ...],
    student: Measured,
    before: Measured | None,
    teacher: Measured | None,
) -> dict[str, ClassAccuracy]:
    """Return the kNN accuracy on the test images of each class that has any."""
    if labels is None or student.right is None:
        return {}

    def share(model: Measured | None, rows: np.ndarray) -> float | None:
        if model is None or model.right is None:
            return None
        return float(model.right[rows].mean())

    found = {}
    for label in np.unique(labels):
        rows = labels == label
        found[classes[label]] = ClassAccuracy(
            images=int(np.count_nonzero(rows)),
            student=float(student.right[rows].mean()),
            undistilled=share(before, rows),
            teacher=share(teacher, rows),
        )
    return found
