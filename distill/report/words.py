"""The report's sentences and its large numbers, made from the figures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from distill.report.illustrations import CosinePairs, Illustrations, PlottedScores, Query
from isogon.bundle import expected_rate
from isogon.bundle.evaluation import (
    ClassAccuracy,
    Corruptions,
    Cost,
    Estimate,
    Evaluation,
    Kind,
    Quality,
)

_HEADLINES = 6
_CLASSES_SHOWN = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """One large number, with the teacher's and the undistilled network's."""

    name: str
    student: str
    teacher: str | None
    hint: str
    undistilled: str | None = None

    @property
    def beside(self) -> str:
        """The text beside the number; empty if there is none."""
        named = {"teacher": self.teacher, "undistilled": self.undistilled}
        return ", ".join(f"{name} {value}" for name, value in named.items() if value)


def percent(share: float) -> str:
    """Return a share as it is printed: 0.967 is 96.7 %."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def headlines(evaluation: Evaluation, drawn: Illustrations) -> list[Headline]:
    """Return the most important of the measured numbers, at most six."""
    student, teacher = evaluation.student, evaluation.teacher
    before = evaluation.undistilled
    quality_before = None if before is None else before.quality
    fidelity, found = evaluation.fidelity, []
    if fidelity is not None:
        fidelity_before = None if before is None else before.fidelity
        found += [
            _headline(
                "angle distortion",
                "mean change of a cosine; 0 is perfect",
                _decimals,
                fidelity.angle_distortion,
                undistilled=None
                if fidelity_before is None
                else fidelity_before.angle_distortion,
            ),
            _headline(
                "neighbour overlap@10",
                "share of the teacher's ten nearest",
                percent,
                fidelity.neighbour_overlap,
                undistilled=None
                if fidelity_before is None
                else fidelity_before.neighbour_overlap,
            ),
        ]
    accuracy = _accuracy(student)
    if accuracy is not None:
        found.append(
            _headline(
                "kNN accuracy",
                "k = 10, T = 0.07",
                percent,
                accuracy,
                _accuracy(teacher),
                _accuracy(quality_before),
            )
        )
    for kind in evaluation.kinds():
        auroc = _auroc(evaluation, student, kind)
        if auroc is not None:
            found.append(
                _headline(
                    f"AUROC, {kind} OOD",
                    f"by {evaluation.detector}; 0.5 is guessing",
                    _decimals,
                    auroc,
                    _auroc(evaluation, teacher, kind),
                    _auroc(evaluation, quality_before, kind),
                )
            )
    cards, cost = (drawn.manifest.student, drawn.manifest.teacher), evaluation.cost
    found.append(
        Headline(
            name="parameters",
            student=_count(cards[0].parameters),
            teacher=_count(cards[1].parameters),
            hint="of the whole network" if cost is None else _weight_and_time(cost),
        )
    )
    if student.corruptions is not None and student.corruptions.accuracy:
        of_teacher = None if teacher is None else teacher.corruptions
        found.append(
            _headline(
                "corrupted accuracy",
                "kNN, mean",
                percent,
                student.corruptions.mean_accuracy,
                None if of_teacher is None else of_teacher.mean_accuracy,
            )
        )
    return found[:_HEADLINES]


def summary(evaluation: Evaluation, drawn: Illustrations) -> list[str]:
    """Return what the figures say, one sentence for each question."""
    student, teacher = evaluation.student, evaluation.teacher
    cards = drawn.manifest.student, drawn.manifest.teacher
    said = [
        f"The student {cards[0].architecture} embeds an image in {drawn.manifest.width:,} "
        f"numbers with {_ratio(cards[0].parameters, cards[1].parameters)} the parameters "
        f"of its teacher, {cards[1].architecture}."
    ]
    fidelity = evaluation.fidelity
    if fidelity is not None:
        said.append(
            f"Its cosines differ from the teacher's by {fidelity.angle_distortion:.3f} on "
            f"average, and it keeps {10 * fidelity.neighbour_overlap:.1f} of the teacher's "
            f"ten nearest neighbours."
        )
    if student.knn_accuracy is not None:
        accuracy = f"kNN finds the right class for {_share(student.knn_accuracy)}"
        if teacher is not None and teacher.knn_accuracy is not None:
            accuracy += f" (teacher {_share(teacher.knn_accuracy)})"
        said.append(accuracy + " of the test images.")
    for kind in evaluation.kinds():
        auroc = _auroc(evaluation, student, kind)
        if auroc is not None:
            reference = _auroc(evaluation, teacher, kind)
            than = "" if reference is None else f" (teacher {reference:.3f})"
            names = ", ".join(evaluation.kinds()[kind])
            said.append(
                f"It {_verdict(auroc)} {kind} unfamiliar images ({names}) from familiar "
                f"(in-distribution) ones: AUROC {auroc:.3f}{than}."
            )
    said += _corrupted(student.corruptions)
    return said


def cost_words(cost: Cost) -> str:
    """Return the size of the student's weights and the time of an image, and where."""
    return f"{_weight_and_time(cost)} alone, in eager torch on {cost.machine}"


def worst_classes(evaluation: Evaluation) -> list[tuple[str, ClassAccuracy]]:
    """Return the classes with the lowest accuracy, worst first; at most 100."""
    ranked = sorted(evaluation.classes.items(), key=lambda one: one[1].student)
    return ranked[:_CLASSES_SHOWN]


def scatter_words(pairs: CosinePairs) -> str:
    """Return how the student's cosines differ from the teacher's, on the drawn pairs."""
    shift = float(np.mean(pairs.student - pairs.teacher))
    side = "lower" if shift < 0 else "higher"
    said = (
        f"On these {len(pairs.teacher):,} pairs the student's cosine is {abs(shift):.3f} "
        f"{side} on average"
    )
    if not (np.ptp(pairs.teacher) and np.ptp(pairs.student)):
        return f"{said}; one of the models gives the same cosine to all."
    related = float(np.corrcoef(pairs.teacher, pairs.student)[0, 1])
    return f"{said}; the correlation is {related:.3f}."


def score_words(scores: PlottedScores, unfamiliar: str) -> str:
    """Return what share of test images and of one unfamiliar set the threshold flags."""
    low, high = expected_rate(scores.calibrated_on, scores.alpha)
    return (
        f"The threshold {scores.threshold:.4g}, set for a false-alarm rate of "
        f"{percent(scores.alpha)}, flags {percent(_flagged(scores, scores.familiar))} of "
        f"{len(scores.familiar):,} familiar test images and "
        f"{percent(_flagged(scores, scores.unfamiliar[unfamiliar]))} of these "
        f"{len(scores.unfamiliar[unfamiliar]):,} unfamiliar ones. Set by "
        f"{scores.calibrated_on:,} images, it flags between {percent(low)} and "
        f"{percent(high)} of all familiar ones, with 95 % probability. More calibration "
        f"images bring this nearer to {percent(scores.alpha)}."
    )


def in_both(query: Query) -> frozenset[int]:
    """Return the images that are among the nearest of both models."""
    theirs = query.teacher or ()
    ours = frozenset(picture.index for picture in query.student)
    return ours & frozenset(picture.index for picture in theirs)


def _auroc(evaluation: Evaluation, quality: Quality | None, kind: Kind) -> float | None:
    if quality is None:
        return None
    return evaluation.mean_auroc(quality, kind).get(evaluation.detector)


def _accuracy(quality: Quality | None) -> float | None:
    if quality is None or quality.knn_accuracy is None:
        return None
    return quality.knn_accuracy.value


def _headline(
    name: str,
    hint: str,
    shown: Callable[[float], str],
    student: float,
    teacher: float | None = None,
    undistilled: float | None = None,
) -> Headline:
    """Return a headline whose numbers `shown` writes."""
    return Headline(
        name=name,
        student=shown(student),
        teacher=None if teacher is None else shown(teacher),
        undistilled=None if undistilled is None else shown(undistilled),
        hint=hint,
    )


def _decimals(figure: float) -> str:
    return f"{figure:.3f}"


def _flagged(scores: PlottedScores, values: Float[np.ndarray, " n"]) -> float:
    passed = np.count_nonzero(values <= scores.threshold)  # NaN is flagged
    return 1 - passed / len(values) if len(values) else 0.0


def _corrupted(corruptions: Corruptions | None) -> list[str]:
    if corruptions is None or not corruptions.accuracy:
        return []
    worst = min(corruptions.accuracy, key=lambda name: corruptions.accuracy[name])
    return [
        f"Corruptions lower its kNN accuracy from {percent(corruptions.clean_accuracy)} to "
        f"{percent(corruptions.mean_accuracy)} on average; {worst.replace('_', ' ')} "
        f"lowers it most ({percent(corruptions.accuracy[worst])})."
    ]


def _share(estimate: Estimate) -> str:
    return percent(estimate.value)


def _verdict(auroc: float) -> str:
    if not auroc >= 0.6:
        return "hardly separates"
    if auroc < 0.8:
        return "partly separates"
    return "separates" if auroc < 0.95 else "clearly separates"


def _weight_and_time(cost: Cost) -> str:
    weight = f"{cost.weights_bytes / 1e6:.3g}\N{NO-BREAK SPACE}MB of weights"
    return f"{weight}, {cost.milliseconds:.3g}\N{NO-BREAK SPACE}ms for an image"


def _count(parameters: int) -> str:
    if parameters >= 10**6:
        return f"{parameters / 1e6:.3g}\N{NO-BREAK SPACE}M"
    return f"{parameters / 1e3:.3g}\N{NO-BREAK SPACE}k"


def _ratio(student: int, teacher: int) -> str:
    return percent(student / teacher) + " of" if teacher else "an unknown share of"
