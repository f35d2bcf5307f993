"""Evaluate: both models on the same images, side by side."""

import hashlib
from collections.abc import Mapping

from distill.embedding import Embedded
from distill.evaluation.bootstrap import BOOTSTRAP, AurocBootstrap
from distill.evaluation.corruptions import CorruptedEmbeddings
from distill.evaluation.fidelity import fidelity
from distill.evaluation.gains import by_class, gains
from distill.evaluation.measured import Judge, measured
from distill.evaluation.ood import detector_key
from distill.evaluation.undistilled import Untrained
from distill.images.data import Data
from isogon.bundle.evaluation import Cost, Evaluation, Role, Training, UnfamiliarSet
from isogon.ood import DetectorSpec
from isogon.ood.knn import directions


def evaluate(
    data: Data,
    teacher: Embedded | None,
    student: Embedded,
    *,
    detector: DetectorSpec,
    training: Training,
    same_space: bool = False,
    corrupted: Mapping[Role, CorruptedEmbeddings] | None = None,
    untrained: Untrained | None = None,
    cost: Cost | None = None,
    parts: Mapping[str, slice] | None = None,
) -> Evaluation:
    """Judge the models on the same images and compare their cosines.

    Args:
        data: the images and their classes.
        teacher: its embeddings, where it is at hand; without those of unfamiliar
            images (an empty dictionary) it has no OOD figures.
        student: the student's.
        detector: the recipe's, evaluated beside every other that applies.
        training: how the run went.
        same_space: the student's embeddings live in the teacher's space.
        corrupted: embeddings of corrupted images, by model; empty where not wanted.
        untrained: those of the student's network before training, where it is at hand.
        cost: what an image costs, where it was measured.
        parts: the channels of each of several teachers, by its name.
    """
    bank_labels = data.familiar.labels(data.bank)
    test_labels = data.held_out.labels(data.split.test)
    resamples = {
        name: AurocBootstrap(len(student.test), len(vectors))
        for name, vectors in student.unfamiliar.items()
    }
    corrupted = corrupted or {}
    judge = Judge(
        detector=detector,
        bank_labels=bank_labels,
        test_labels=test_labels,
        resamples=resamples,
        teacher=teacher,
    )
    theirs = before = start = None
    if teacher is not None:
        theirs = measured(teacher, judge, corrupted=corrupted.get("teacher"))
    ours = measured(
        student, judge, same_space=same_space, corrupted=corrupted.get("student")
    )
    if untrained is not None:
        before = measured(untrained.undistilled, judge)
        if untrained.start is not None:
            start = measured(untrained.start, judge)
    flagged = None if ours.scores is None else ours.scores.flagged(detector.alpha)
    return Evaluation(
        bank_images=len(data.bank),
        test_images=len(data.split.test),
        test_digest=_digest([data.held_out.names[index] for index in data.split.test]),
        unfamiliar={
            name: UnfamiliarSet(
                images=len(each.flaggable),
                kind=each.kind,
                flagged=None if flagged is None else flagged[name],
            )
            for name, each in data.unfamiliar.items()
        },
        detector=detector_key(detector),
        bootstrap=BOOTSTRAP,
        fidelity=ours.fidelity,
        fidelity_to_each={
            name: fidelity(_part(teacher, channels), student, same_space=False)
            for name, channels in (parts or {}).items()
            if teacher is not None
        },
        teacher=None if theirs is None else theirs.quality,
        student=ours.quality,
        training=training,
        undistilled=None if before is None else before.baseline,
        start=None if start is None else start.baseline,
        pretrained=None if untrained is None else untrained.pretrained,
        gains={} if before is None else gains(ours, before, resamples),
        classes=by_class(test_labels, data.held_out.classes, ours, before, theirs),
        cost=cost,
        copies=data.copies,
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
