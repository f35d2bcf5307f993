"""Fidelity: how much of the teacher's geometry the student keeps."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from distill.embedding import Embedded
from isogon.bundle.evaluation import Fidelity
from isogon.ood.blocks import BLOCK
from isogon.ood.neighbours import NEIGHBOURS, neighbours_kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What is kept of the teacher's angles, by test image."""

    distortion: Float[np.ndarray, " n"]  # mean |cos_student - cos_teacher| over the bank
    overlap: Float[np.ndarray, " n"]  # share of the teacher's 10 nearest
    recall: Float[np.ndarray, " n"] | None  # the same in the teacher's own index


def kept_of(teacher: Embedded, student: Embedded, *, same_space: bool) -> Kept:
    """Compare the cosines of every test image with every bank image.

    Args:
        teacher: the teacher's embeddings.
        student: the student's, of the same images.
        same_space: the student's embeddings live in the teacher's space, so that
            they can query an index of the teacher's.
    """
    k = min(NEIGHBOURS, len(teacher.bank))
    distortion, overlap, recall = [], [], []
    for start in range(0, len(teacher.test), BLOCK):
        rows = slice(start, start + BLOCK)
        before = teacher.test[rows] @ teacher.bank.T
        after = student.test[rows] @ student.bank.T
        distortion.append(np.abs(after - before).mean(axis=1, dtype=np.float64))
        overlap.append(neighbours_kept(before, after, k=k))
        if same_space:
            across = student.test[rows] @ teacher.bank.T
            recall.append(neighbours_kept(before, across, k=k))
    return Kept(
        distortion=np.concatenate(distortion),
        overlap=np.concatenate(overlap),
        recall=np.concatenate(recall) if same_space else None,
    )


def fidelity_of(teacher: Embedded, student: Embedded, kept: Kept) -> Fidelity:
    """Return the means over the test images, and linear CKA."""
    return Fidelity(
        angle_distortion=float(kept.distortion.mean()),
        neighbour_overlap=float(kept.overlap.mean()),
        linear_cka=linear_cka(teacher.test, student.test),
        teacher_index_recall=None if kept.recall is None else float(kept.recall.mean()),
    )


def fidelity(teacher: Embedded, student: Embedded, *, same_space: bool) -> Fidelity:
    """Return how much of the teacher's geometry is kept; see `kept_of`."""
    kept = kept_of(teacher, student, same_space=same_space)
    return fidelity_of(teacher, student, kept)


def linear_cka(
    before: Float[np.ndarray, "n _"], after: Float[np.ndarray, "n _"]
) -> float | None:
    """Return the linear centred kernel alignment of two sets of features, in [0, 1].

    None where one of them does not vary: a single image, or a collapsed model. 1 means
    equal up to rotation, isotropic scale and shift. By the feature-space
    formula of Kornblith et al., "Similarity of Neural Network Representations
    Revisited", ICML 2019, arXiv:1905.00414, section 3: the biased estimate, which is
    too high where the images are few for the width.
    """
    x = _centred(before)
    y = _centred(after)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / scale) if scale > 0 else None


def _centred(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    wide = features.astype(np.float64)
    centred: np.ndarray = wide - wide.mean(axis=0)
    return centred
