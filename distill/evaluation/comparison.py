"""Compare: the figures of several bundles, side by side, and whether that is fair."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bundle import Manifest, TeacherCard
from bundle.evaluation import Estimate, Evaluation, Quality

Better = Literal["lower", "higher"]
Subject = tuple[Manifest, Evaluation]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One column of the comparison."""

    name: str
    better: Better
    values: dict[str, float]  # by bundle; those that have it
    intervals: dict[str, Estimate]  # of the values that have one

    @property
    def best(self) -> tuple[str, ...]:
        """The bundles with the best value; more than one where they tie."""
        if not self.values:
            return ()
        best = (
            min(self.values.values())
            if self.better == "lower"
            else max(self.values.values())
        )
        return tuple(name for name, value in self.values.items() if value == best)


def compared(subjects: Mapping[str, Subject]) -> list[Figure]:
    """Return the figures that at least one of the bundles has, fidelity first."""
    named: dict[str, tuple[Better, dict[str, float | Estimate | None]]] = {}

    def take(
        name: str, better: Better, bundle: str, value: float | Estimate | None
    ) -> None:
        named.setdefault(name, (better, {}))[1][bundle] = value

    for bundle, (manifest, evaluation) in subjects.items():
        student, kept = evaluation.student, evaluation.fidelity
        take("parameters", "lower", bundle, float(manifest.student.parameters))
        take("width", "lower", bundle, float(manifest.width))
        if kept is not None:
            take("angle distortion", "lower", bundle, kept.angle_distortion)
            take("overlap@10", "higher", bundle, kept.neighbour_overlap)
            take("linear CKA", "higher", bundle, kept.linear_cka)
            take(
                "recall@10 in the teacher's index",
                "higher",
                bundle,
                kept.teacher_index_recall,
            )
        take("kNN accuracy", "higher", bundle, student.knn_accuracy)
        take("linear accuracy", "higher", bundle, student.linear_accuracy)
        for kind in evaluation.kinds():
            auroc = evaluation.mean_auroc(student, kind).get(evaluation.detector)
            take(f"AUROC {kind}", "higher", bundle, auroc)
            take(f"FPR95 {kind}", "lower", bundle, mean_fpr95(evaluation, student, kind))
        if student.corruptions is not None:
            corrupted = student.corruptions.mean_accuracy
            take("accuracy, corrupted", "higher", bundle, corrupted)
    figures = [_figure(name, better, values) for name, (better, values) in named.items()]
    return [figure for figure in figures if figure.values]


def unfair(subjects: Mapping[str, Subject]) -> list[str]:
    """Return why the bundles' figures cannot be compared, one sentence per reason."""
    reasons = []
    evaluations = {name: evaluation for name, (_, evaluation) in subjects.items()}
    tests = {
        name: (one.test_digest, manifest.provenance.images, one.test_images)
        for name, (manifest, one) in subjects.items()
    }
    if len({digest for digest, _, _ in tests.values()}) > 1:
        shown = "; ".join(
            f"{name}: {count:,} of {source}" for name, (_, source, count) in tests.items()
        )
        reasons.append(f"The bundles were tested on different images ({shown}).")
    banks = {
        name: (one.bank_images, manifest.provenance.images)
        for name, (manifest, one) in subjects.items()
    }
    if len({count for count, _ in banks.values()}) > 1:
        shown = "; ".join(
            f"{name}: {count:,} of {source}" for name, (count, source) in banks.items()
        )
        reasons.append(f"Each was compared with another number of images ({shown}).")
    if len({_sets(one) for one in evaluations.values()}) > 1:
        shown = "; ".join(f"{name}: {_sets(one)}" for name, one in evaluations.items())
        reasons.append(f"Their unfamiliar images differ ({shown}).")
    if len({one.detector for one in evaluations.values()}) > 1:
        shown = "; ".join(f"{name}: {one.detector}" for name, one in evaluations.items())
        reasons.append(f"Each AUROC is of the bundle's own detector ({shown}).")
    teachers = {_unsized(manifest.teacher) for manifest, _ in subjects.values()}
    if len(teachers) > 1:
        reasons.append("Their teachers differ, so each is faithful to another model.")
    sizes = {name: _teachers_sizes(manifest) for name, (manifest, _) in subjects.items()}
    if len(teachers) == 1 and len(set(sizes.values())) > 1:
        shown = "; ".join(
            f"{name}: {' + '.join(map(str, size))}" for name, size in sizes.items()
        )
        reasons.append(
            f"Their teacher saw images of other sizes, which are other embeddings to be "
            f"faithful to (pixels, {shown})."
        )
    settings = {
        (found.images, found.severities)
        for one in evaluations.values()
        if (found := one.student.corruptions) is not None
    }
    if len(settings) > 1:
        reasons.append("Their corruptions differ in number of images or severity.")
    return reasons


def mean_fpr95(
    evaluation: Evaluation, quality: Quality, kind: Literal["near", "far"]
) -> float | None:
    """Return the mean FPR95 (OOD positive) of the recipe's detector over these sets."""
    found = [
        quality.ood[name][evaluation.detector].fpr95_ood_positive
        for name in evaluation.kinds().get(kind, [])
        if evaluation.detector in quality.ood.get(name, {})
    ]
    return float(np.mean(found)) if found else None


def _figure(
    name: str, better: Better, values: Mapping[str, float | Estimate | None]
) -> Figure:
    estimates = {
        bundle: value for bundle, value in values.items() if isinstance(value, Estimate)
    }
    plain = {
        bundle: value.value if isinstance(value, Estimate) else value
        for bundle, value in values.items()
        if value is not None
    }
    return Figure(name=name, better=better, values=plain, intervals=estimates)


def _unsized(teacher: TeacherCard) -> TeacherCard:
    """Return the card without the sizes of images: what the model is."""
    several = tuple(_unsized(one) for one in teacher.teachers)
    return teacher.model_copy(update={"size": None, "teachers": several})


def _teachers_sizes(manifest: Manifest) -> tuple[int, ...]:
    """Return the size in which each teacher with a network saw the images."""
    cards = manifest.teacher.teachers or (manifest.teacher,)
    seen = manifest.preprocessing.height
    return tuple(card.size or seen for card in cards if card.parameters)


def _sets(evaluation: Evaluation) -> str:
    shown = [
        f"{name} ({one.images:,} {one.kind})" for name, one in evaluation.unfamiliar.items()
    ]
    return ", ".join(shown) or "none"
