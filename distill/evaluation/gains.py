"""Gains: the student minus the same network before training, on the same images."""

from collections.abc import Mapping

import numpy as np

from distill.evaluation.bootstrap import AurocBootstrap, PairedBootstrap
from distill.evaluation.measured import Measured
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
