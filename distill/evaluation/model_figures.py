"""The figures of one model: fidelity, accuracy and OOD detection.

The values of each test image are kept too, for paired comparisons of two models.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from distill.embedding import RoleEmbeddings
from distill.evaluation.accuracy import (
    AurocBootstrap,
    accuracy_estimate,
    any_known,
    knn_right,
)
from distill.evaluation.corruptions import CorruptedEmbeddings, corruption_figures
from distill.evaluation.ood import (
    OodScores,
    detector_key,
    detectors_for,
    ood_figures,
    ood_scores,
)
from isogon.bundle.evaluation import Baseline, Corruptions, Fidelity, Quality
from isogon.images.collection import Indices
from isogon.ood import DetectorSpec, LinearProbe
from isogon.ood.neighbours import BLOCK, NEIGHBOURS, neighbours_kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What all models are measured with, so that all are measured in the same way."""

    detector: DetectorSpec  # the recipe's; all others that can be fitted are used too
    bank_labels: Indices | None
    test_labels: Indices | None
    resamples: Mapping[str, AurocBootstrap]  # by unfamiliar set
    teacher: RoleEmbeddings | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptAngles:
    """How much of the teacher's angles is kept, by test image."""

    distortion: Float[np.ndarray, " n"]  # mean |cos_student - cos_teacher| over the bank
    overlap: Float[np.ndarray, " n"]  # share of the teacher's 10 nearest
    recall: Float[np.ndarray, " n"] | None  # the same in the teacher's own index


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFigures:
    """One model's figures, and the values of each test image behind them."""

    quality: Quality
    fidelity: Fidelity | None  # None without a teacher, and for the teacher itself
    kept: KeptAngles | None
    right: Bool[np.ndarray, " test"] | None  # by kNN
    right_by_probe: Bool[np.ndarray, " test"] | None  # by the linear probe
    scores: OodScores | None  # by the recipe's detector

    @property
    def baseline(self) -> Baseline:
        """The figures without the values of each image."""
        return Baseline(fidelity=self.fidelity, quality=self.quality)


def model_figures(
    embedded: RoleEmbeddings,
    measurement: Measurement,
    *,
    same_space: bool = False,
    corrupted: CorruptedEmbeddings | None = None,
) -> ModelFigures:
    """Measure one model: fidelity, accuracy where classes are shared, OOD detection.

    Args:
        embedded: its embeddings.
        measurement: what it is measured with.
        same_space: whether its embeddings are in the teacher's space.
        corrupted: its embeddings of corrupted images, if wanted.
    """
    labels, test_labels = measurement.bank_labels, measurement.test_labels
    if labels is not None and len(np.unique(labels)) < 2:
        labels = None  # a bank of one class cannot tell classes apart
    probe = None if labels is None else LinearProbe.fit(embedded.bank, labels)
    knn = linear = right = right_by_probe = None
    corruptions: Corruptions | None = None
    if (
        labels is not None
        and test_labels is not None
        and probe is not None
        and any_known(labels, test_labels)
    ):
        known = embedded.bank, labels
        right = knn_right(*known, embedded.test, test_labels)
        knn = accuracy_estimate(right)
        predicted = probe.classes[probe.predictions(embedded.test)]
        right_by_probe = predicted == test_labels
        linear = accuracy_estimate(right_by_probe)
        if corrupted is not None:
            corruptions = corruption_figures(*known, embedded.test, test_labels, corrupted)
    specs = detectors_for(embedded, labels is not None, measurement.detector)
    scores = ood_scores(embedded, labels, specs, probe)
    resamples = {name: measurement.resamples[name] for name in embedded.unfamiliar}
    teacher, kept, found = measurement.teacher, None, None
    if teacher is not None and teacher is not embedded:
        kept = _kept_of(teacher, embedded, same_space=same_space)
        found = _fidelity_of(teacher, embedded, kept)
    return ModelFigures(
        quality=Quality(
            knn_accuracy=knn,
            linear_accuracy=linear,
            ood=ood_figures(scores, resamples),
            corruptions=corruptions,
        ),
        fidelity=found,
        kept=kept,
        right=right,
        right_by_probe=right_by_probe,
        scores=scores.get(detector_key(measurement.detector)),
    )


def fidelity(
    teacher: RoleEmbeddings, student: RoleEmbeddings, *, same_space: bool
) -> Fidelity:
    """Return how much of the teacher's geometry is kept; see `_kept_of`."""
    kept = _kept_of(teacher, student, same_space=same_space)
    return _fidelity_of(teacher, student, kept)


def linear_cka(
    before: Float[np.ndarray, "n _"], after: Float[np.ndarray, "n _"]
) -> float | None:
    """Return the linear centred kernel alignment of two sets of features, in [0, 1].

    None if one of them does not vary: a single image, or a collapsed model. 1 means equal
    up to rotation, isotropic scale and shift. The feature-space formula of Kornblith et
    al., "Similarity of Neural Network Representations Revisited", ICML 2019,
    arXiv:1905.00414, section 3. It is the biased estimate, which is too high if there are
    few images for the width.
    """
    x = _centred(before)
    y = _centred(after)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / scale) if scale > 0 else None


def _fidelity_of(
    teacher: RoleEmbeddings, student: RoleEmbeddings, kept: KeptAngles
) -> Fidelity:
    """Return the means over the test images, and linear CKA."""
    return Fidelity(
        angle_distortion=float(kept.distortion.mean()),
        neighbour_overlap=float(kept.overlap.mean()),
        linear_cka=linear_cka(teacher.test, student.test),
        teacher_index_recall=None if kept.recall is None else float(kept.recall.mean()),
    )


def _kept_of(
    teacher: RoleEmbeddings, student: RoleEmbeddings, *, same_space: bool
) -> KeptAngles:
    """Compare the cosines of every test image with every bank image.

    Args:
        teacher: the teacher's embeddings.
        student: the student's, of the same images.
        same_space: whether the student's embeddings are in the teacher's space, so that
            they can query the teacher's index.
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
    return KeptAngles(
        distortion=np.concatenate(distortion),
        overlap=np.concatenate(overlap),
        recall=np.concatenate(recall) if same_space else None,
    )


def _centred(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    wide = features.astype(np.float64)
    centred: np.ndarray = wide - wide.mean(axis=0)
    return centred
