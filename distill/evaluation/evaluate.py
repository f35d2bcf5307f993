"""Evaluate: both models on the same images, side by side."""

import hashlib
from collections.abc import Mapping

import numpy as np

from bundle import DetectorSpec, LinearProbe
from bundle.collection import Indices
from bundle.detectors.knn import directions
from bundle.evaluation import (
    Corruptions,
    Evaluation,
    Quality,
    Role,
    Training,
    UnfamiliarSet,
)
from distill.embedding import Embedded
from distill.evaluation.accuracy import any_known, knn_right
from distill.evaluation.bootstrap import BOOTSTRAP, AurocBootstrap, accuracy_estimate
from distill.evaluation.corruptions import CorruptedEmbeddings, corruption_figures
from distill.evaluation.fidelity import fidelity
from distill.evaluation.ood import detector_key, detectors_for, ood_figures
from distill.images.data import Data


def evaluate(
    data: Data,
    teacher: Embedded | None,
    student: Embedded,
    *,
    detector: DetectorSpec,
    training: Training,
    same_space: bool = False,
    corrupted: Mapping[Role, CorruptedEmbeddings] | None = None,
    parts: Mapping[str, slice] | None = None,
) -> Evaluation:
    """Judge both models on the same images and compare their cosines.

    Args:
        data: the images and their classes.
        teacher: its embeddings, where it is at hand; without those of unfamiliar
            images (an empty dictionary) it has no OOD figures.
        student: the student's.
        detector: the recipe's, evaluated beside every other that applies.
        training: how the run went.
        same_space: the student's embeddings live in the teacher's space.
        corrupted: embeddings of corrupted images, by model; empty where not wanted.
        parts: the channels of each of several teachers, by its name.
    """
    labels = data.familiar.labels(data.bank), data.held_out.labels(data.split.test)
    resamples = {
        name: AurocBootstrap(len(student.test), len(vectors))
        for name, vectors in student.unfamiliar.items()
    }
    corrupted = corrupted or {}

    def judged(embedded: Embedded, role: Role) -> Quality:
        return quality(embedded, *labels, detector, resamples, corrupted.get(role))

    compared = None
    if teacher is not None:
        compared = fidelity(teacher, student, same_space=same_space)
    return Evaluation(
        bank_images=len(data.bank),
        test_images=len(data.split.test),
        test_digest=_digest([data.held_out.names[index] for index in data.split.test]),
        unfamiliar={
            name: UnfamiliarSet(images=len(each.flaggable), kind=each.kind)
            for name, each in data.unfamiliar.items()
        },
        detector=detector_key(detector),
        bootstrap=BOOTSTRAP,
        fidelity=compared,
        fidelity_to_each={
            name: fidelity(_part(teacher, channels), student, same_space=False)
            for name, channels in (parts or {}).items()
            if teacher is not None
        },
        teacher=None if teacher is None else judged(teacher, "teacher"),
        student=judged(student, "student"),
        training=training,
    )


def quality(
    embedded: Embedded,
    bank_labels: Indices | None,
    test_labels: Indices | None,
    detector: DetectorSpec,
    resamples: Mapping[str, AurocBootstrap],
    corrupted: CorruptedEmbeddings | None = None,
) -> Quality:
    """Measure one model: accuracy, where classes are shared, and OOD detection."""
    if bank_labels is not None and len(np.unique(bank_labels)) < 2:
        bank_labels = None  # a bank of one class cannot tell classes apart
    probe = None if bank_labels is None else LinearProbe.fit(embedded.bank, bank_labels)
    knn = linear = None
    corruptions: Corruptions | None = None
    if (
        bank_labels is not None
        and test_labels is not None
        and probe is not None
        and any_known(bank_labels, test_labels)
    ):
        known = embedded.bank, bank_labels
        knn = accuracy_estimate(knn_right(*known, embedded.test, test_labels))
        predicted = probe.classes[probe.predictions(embedded.test)]
        linear = accuracy_estimate(predicted == test_labels)
        if corrupted is not None:
            corruptions = corruption_figures(*known, embedded.test, test_labels, corrupted)
    specs = detectors_for(embedded, bank_labels is not None, detector)
    return Quality(
        knn_accuracy=knn,
        linear_accuracy=linear,
        ood=ood_figures(embedded, bank_labels, specs, resamples, probe),
        corruptions=corruptions,
    )


def _part(teacher: Embedded, channels: slice) -> Embedded:
    """Return the embeddings of one of several teachers: theirs are side by side."""
    return Embedded(
        bank=directions(teacher.bank[:, channels]),
        test=directions(teacher.test[:, channels]),
        unfamiliar={},
    )


def _digest(names: list[str]) -> str:
    joined = "\0".join(sorted(names)).encode("utf-8", "surrogateescape")
    return hashlib.sha256(joined).hexdigest()
