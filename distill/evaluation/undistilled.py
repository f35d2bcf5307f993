"""The student's network before training, and what training gained over it.

Without distillation one would use the small network's pooled vectors. They are reduced to
the student's width by uncentred PCA, which keeps most of their inner products (Eckart and
Young, 1936). The gain of training is the difference to that.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from torch import nn

from distill.embedding import AllEmbeddings, RoleEmbeddings
from distill.evaluation.accuracy import AurocBootstrap, PairedBootstrap
from distill.evaluation.model_figures import ModelFigures
from distill.start.closed_form import uncentred_pca
from distill.start.fitting import UntrainedStudent
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
class UntrainedEmbeddings:
    """Unit-norm embeddings of the student's network before training."""

    undistilled: RoleEmbeddings  # its pooled vectors, at most as wide as the student's
    start: RoleEmbeddings | None  # after the closed-form layer, if there is one
    pretrained: bool  # whether the network had pretrained weights


def untrained(
    embedded: AllEmbeddings, before: UntrainedStudent | None, width: int
) -> UntrainedEmbeddings | None:
    """Return the embeddings by the network before training; None if it is not available.

    Args:
        embedded: every model's embeddings.
        before: the student before training.
        width: the student's embedding dimension.
    """
    pooled = embedded.pooled
    if before is None or pooled is None:
        return None
    return UntrainedEmbeddings(
        undistilled=undistilled(pooled, width),
        start=None if before.layer is None else through_layer(pooled, before.layer),
        pretrained=before.pretrained,
    )


def undistilled(pooled: RoleEmbeddings, width: int) -> RoleEmbeddings:
    """Return unit vectors at most `width` wide that keep the cosines of `pooled`.

    They come from uncentred PCA of the bank's unit vectors, unless these fit as they are.
    """
    directions = pooled.mapped(unit_vectors)
    if pooled.bank.shape[1] <= width:
        return directions
    known = directions.bank[directions.bank.any(axis=1)]
    axes = uncentred_pca(known, width)
    return directions.mapped(lambda vectors: unit_vectors(vectors @ axes.T))


def through_layer(pooled: RoleEmbeddings, layer: nn.Linear) -> RoleEmbeddings:
    """Return the outputs of a linear layer on `pooled`, as unit vectors."""
    weight = layer.weight.detach().cpu().numpy()
    bias = 0.0 if layer.bias is None else layer.bias.detach().cpu().numpy()
    return pooled.mapped(lambda vectors: unit_vectors(vectors @ weight.T + bias))


def unit_vectors(vectors: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Return the vectors divided by their norms; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: np.ndarray = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return found


def gains(
    student: ModelFigures, before: ModelFigures, resamples: Mapping[str, AurocBootstrap]
) -> dict[str, Estimate]:
    """Return the difference of each figure that both have, with its paired interval.

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
    student: ModelFigures,
    before: ModelFigures | None,
    teacher: ModelFigures | None,
) -> dict[str, ClassAccuracy]:
    """Return the kNN accuracy of each class that has test images."""
    if labels is None or student.right is None:
        return {}

    def share(model: ModelFigures | None, rows: np.ndarray) -> float | None:
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
