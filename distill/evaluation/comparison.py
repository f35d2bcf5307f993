"""Compare: the figures of several bundles, and why they may not be comparable."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from isogon.bundle import Manifest, TeacherCard
from isogon.bundle.evaluation import Baseline, Estimate, Evaluation, Fidelity, Kind, Quality

Better = Literal["lower", "higher"]
Subject = tuple[Manifest, Evaluation]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedFigure:
    """One column of the comparison."""

    name: str
    better: Better
    values: dict[str, float]  # by bundle or baseline; only those that have the figure
    intervals: dict[str, Estimate]  # of the values that have an interval

    @property
    def best(self) -> tuple[str, ...]:
        """The bundles with the best value; several if they tie."""
        if not self.values:
            return ()
        best = (
            min(self.values.values())
            if self.better == "lower"
            else max(self.values.values())
        )
        return tuple(name for name, value in self.values.items() if value == best)


def baselines(bundle: str, evaluation: Evaluation) -> dict[str, Baseline]:
    """Return a bundle's baselines, by the names they have in the comparison."""
    both = {"undistilled": evaluation.undistilled, "closed form": evaluation.start}
    return {f"{bundle}, {name}": one for name, one in both.items() if one is not None}


def compared(subjects: Mapping[str, Subject]) -> list[ComparedFigure]:
    """Return the figures that at least one of the bundles has, fidelity first.

    The baselines of each bundle have figures too: its student's network before training.
    """
    named: dict[str, tuple[Better, dict[str, float | Estimate | None]]] = {}

    def take(
        name: str, better: Better, bundle: str, value: float | Estimate | None
    ) -> None:
        named.setdefault(name, (better, {}))[1][bundle] = value

    def take_all(
        name: str, evaluation: Evaluation, quality: Quality, kept: Fidelity | None
    ) -> None:
        if kept is not None:
            take("angle distortion", "lower", name, kept.angle_distortion)
            take("overlap@10", "higher", name, kept.neighbour_overlap)
            take("linear CKA", "higher", name, kept.linear_cka)
            take(
                "recall@10 in the teacher's index",
                "higher",
                name,
                kept.teacher_index_recall,
            )
        take("kNN accuracy", "higher", name, quality.knn_accuracy)
        take("linear accuracy", "higher", name, quality.linear_accuracy)
        for kind in evaluation.kinds():
            auroc = evaluation.mean_auroc(quality, kind).get(evaluation.detector)
            take(f"AUROC {kind}", "higher", name, auroc)
            take(f"FPR95 {kind}", "lower", name, _mean_fpr95(evaluation, quality, kind))
        if quality.corruptions is not None:
            corrupted = quality.corruptions.mean_accuracy
            take("accuracy, corrupted", "higher", name, corrupted)

    for bundle, (manifest, evaluation) in subjects.items():
        take("parameters", "lower", bundle, float(manifest.student.parameters))
        take("width", "lower", bundle, float(manifest.width))
        take_all(bundle, evaluation, evaluation.student, evaluation.fidelity)
        for name, before in baselines(bundle, evaluation).items():
            take_all(name, evaluation, before.quality, before.fidelity)
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
            f"Their teacher saw images of other sizes, so each is faithful to other "
            f"embeddings (pixels, {shown})."
        )
    settings = {
        (found.images, found.severities)
        for one in evaluations.values()
        if (found := one.student.corruptions) is not None
    }
    if len(settings) > 1:
        reasons.append("Their corruptions differ in number of images or severity.")
    return reasons


def _mean_fpr95(evaluation: Evaluation, quality: Quality, kind: Kind) -> float | None:
    """Return the mean FPR95 (OOD positive) of the recipe's detector over sets of a kind."""
    found = [
        quality.ood[name][evaluation.detector].fpr95_ood_positive
        for name in evaluation.kinds().get(kind, [])
        if evaluation.detector in quality.ood.get(name, {})
    ]
    return float(np.mean(found)) if found else None


def _figure(
    name: str, better: Better, values: Mapping[str, float | Estimate | None]
) -> ComparedFigure:
    estimates = {
        bundle: value for bundle, value in values.items() if isinstance(value, Estimate)
    }
    plain = {
        bundle: value.value if isinstance(value, Estimate) else value
        for bundle, value in values.items()
        if value is not None
    }
    return ComparedFigure(name=name, better=better, values=plain, intervals=estimates)


def _unsized(teacher: TeacherCard) -> TeacherCard:
    """Return the card without image sizes, to compare models alone."""
    several = tuple(_unsized(one) for one in teacher.teachers)
    return teacher.model_copy(update={"size": None, "teachers": several})


def _teachers_sizes(manifest: Manifest) -> tuple[int, ...]:
    """Return the image size of each teacher that has a network."""
    cards = manifest.teacher.teachers or (manifest.teacher,)
    seen = manifest.preprocessing.height
    return tuple(card.size or seen for card in cards if card.parameters)


def _sets(evaluation: Evaluation) -> str:
    shown = [
        f"{name} ({one.images:,} {one.kind})" for name, one in evaluation.unfamiliar.items()
    ]
    return ", ".join(shown) or "none"
