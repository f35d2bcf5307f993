"""Fidelity: how much of the teacher's geometry the student keeps."""

import numpy as np
from jaxtyping import Float

from bundle.blocks import BLOCK
from bundle.evaluation import Fidelity
from bundle.neighbours import NEIGHBOURS, neighbour_overlap
from distill.embedding import Embedded


def fidelity(teacher: Embedded, student: Embedded, *, same_space: bool) -> Fidelity:
    """Compare the cosines of every test image with every bank image.

    Args:
        teacher: the teacher's embeddings.
        student: the student's, of the same images.
        same_space: the student's embeddings live in the teacher's space, so that
            they can query an index of the teacher's.
    """
    k = min(NEIGHBOURS, len(teacher.bank))
    distortion = overlap = recall = 0.0
    for start in range(0, len(teacher.test), BLOCK):
        rows = slice(start, start + BLOCK)
        share = len(teacher.test[rows]) / len(teacher.test)
        before = teacher.test[rows] @ teacher.bank.T
        after = student.test[rows] @ student.bank.T
        distortion += share * float(np.abs(after - before).mean(dtype=np.float64))
        overlap += share * neighbour_overlap(before, after, k=k)
        if same_space:
            across = student.test[rows] @ teacher.bank.T
            recall += share * neighbour_overlap(before, across, k=k)
    return Fidelity(
        angle_distortion=distortion,
        neighbour_overlap=overlap,
        linear_cka=linear_cka(teacher.test, student.test),
        teacher_index_recall=recall if same_space else None,
    )


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
