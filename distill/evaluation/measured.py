"""What one model's embeddings are worth, and the values by image behind the figures."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from distill.embedding import Embedded
from distill.evaluation.accuracy import any_known, knn_right
from distill.evaluation.bootstrap import AurocBootstrap, accuracy_estimate
from distill.evaluation.corruptions import CorruptedEmbeddings, corruption_figures
from distill.evaluation.fidelity import Kept, fidelity_of, kept_of
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """What every model is measured with, so that all are measured alike."""

    detector: DetectorSpec  # the recipe's, evaluated beside every other that applies
    bank_labels: Indices | None
    test_labels: Indices | None
    resamples: Mapping[str, AurocBootstrap]  # by unfamiliar set
    teacher: Embedded | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One model's figures, and by image what two models are compared on."""

    quality: Quality
    fidelity: Fidelity | None  # None without the teacher, and of the teacher itself
    kept: Kept | None
    right: Bool[np.ndarray, " test"] | None  # by its nearest neighbours
    right_by_probe: Bool[np.ndarray, " test"] | None
    scores: OodScores | None  # by the recipe's detector

    @property
    def baseline(self) -> Baseline:
        """The figures alone."""
        return Baseline(fidelity=self.fidelity, quality=self.quality)


def measured(
    embedded: Embedded,
    judge: Judge,
    *,
    same_space: bool = False,
    corrupted: CorruptedEmbeddings | None = None,
) -> Measured:
    """Measure one model: fidelity, accuracy where classes are shared, OOD detection.

    Args:
        embedded: its embeddings.
        judge: what it is measured with.
        same_space: its embeddings live in the teacher's space.
        corrupted: its embeddings of corrupted images, where they are wanted.
    """
    labels, test_labels = judge.bank_labels, judge.test_labels
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
    specs = detectors_for(embedded, labels is not None, judge.detector)
    scores = ood_scores(embedded, labels, specs, probe)
    resamples = {name: judge.resamples[name] for name in embedded.unfamiliar}
    teacher, kept, fidelity = judge.teacher, None, None
    if teacher is not None and teacher is not embedded:
        kept = kept_of(teacher, embedded, same_space=same_space)
        fidelity = fidelity_of(teacher, embedded, kept)
    return Measured(
        quality=Quality(
            knn_accuracy=knn,
            linear_accuracy=linear,
            ood=ood_figures(scores, resamples),
            corruptions=corruptions,
        ),
        fidelity=fidelity,
        kept=kept,
        right=right,
        right_by_probe=right_by_probe,
        scores=scores.get(detector_key(judge.detector)),
    )
