"""Whether distilling has paid: the student against its network before training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from isogon.bundle.evaluation import (
    DISTORTION,
    KNN_ACCURACY,
    LINEAR_ACCURACY,
    OVERLAP,
    Baseline,
    Estimate,
    Evaluation,
    Fidelity,
    Quality,
    auroc_of,
)

Verdict = Literal["paid", "not paid", "unclear", "unknown"]
_UNKNOWN = (
    "Whether distilling has paid is not known: the same network before training was not "
    "measured. `isogon evaluate` measures it if its weights are available."
)
_NOTHING_TO_JUDGE_BY = (
    "Whether distilling has paid is not known: there was no teacher, no class and no "
    "unfamiliar image to measure it by."
)
_RANDOM = " The network had no pretrained weights, so undistilled means random."


@dataclass(frozen=True, kw_only=True, slots=True)
class Worth:
    """Whether distilling has paid, and by how much."""

    verdict: Verdict
    sentence: str


def worth_of(evaluation: Evaluation) -> Worth:
    """Return whether the student is better than the same network before training.

    The deciding figures are overlap@10 and angle distortion; without a teacher, kNN
    accuracy; without classes too, the AUROCs. A figure is better or worse only if zero is
    outside its interval. Distilling has

    - not paid, if overlap@10 is worse, or a deciding figure is worse and none is better;
    - paid, if all deciding figures are better and kNN accuracy is not worse;
    - made no clear difference, otherwise.
    """
    if evaluation.undistilled is None:
        return Worth(verdict="unknown", sentence=_UNKNOWN)
    gains = gains_of(evaluation)
    if not gains:
        return Worth(verdict="unknown", sentence=_NOTHING_TO_JUDGE_BY)
    verdict = _verdict(gains)
    lost = [gain for gain in gains if gain.worse]
    opening = {
        "paid": "Distilling has paid",
        "not paid": "Distilling has NOT paid",
        "unclear": "Distilling has made no clear difference",
    }[verdict]
    if verdict == "unclear" and any(gain.better for gain in gains):
        opening = "Distilling has gained something"
        opening += " and lost something" if lost else ", and the rest is undecided"
    elif verdict == "unclear" and lost:
        opening = "Distilling has lost something, and the rest is undecided"
    worse = "; ".join(map(str, lost))
    kept = "; ".join(str(gain) for gain in gains if not gain.worse)
    if not lost:
        said = kept
    elif verdict == "paid":
        said = f"{kept}; but worse in {worse}"
    else:
        said = f"worse in {worse}" + (f"; not worse in {kept}" if kept else "")
    random = _RANDOM if evaluation.pretrained is False else ""
    return Worth(verdict=verdict, sentence=f"{opening}: {said}.{random}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """One figure of the student, and of the same network before training."""

    name: str
    student: float
    undistilled: float
    difference: Estimate  # student minus undistilled, on the same images
    lower_is_better: bool

    @property
    def better(self) -> bool:
        """Whether the student is better, with zero outside the interval."""
        difference = self.difference
        return difference.high < 0 if self.lower_is_better else difference.low > 0

    @property
    def worse(self) -> bool:
        """Whether the student is worse, with zero outside the interval."""
        difference = self.difference
        return difference.low > 0 if self.lower_is_better else difference.high < 0

    def __str__(self) -> str:
        name = f"{self.name} (lower is better)" if self.lower_is_better else self.name
        return (
            f"{name} {self.student:.3f}, undistilled {self.undistilled:.3f} "
            f"({difference_text(self.difference)})"
        )


def gains_of(evaluation: Evaluation) -> tuple[Gain, ...]:
    """Return the gain on each figure that was measured of both."""
    before = evaluation.undistilled
    return () if before is None else tuple(_gains(evaluation, before))


def difference_text(difference: Estimate) -> str:
    """Return a difference and its interval: `+0.108 [+0.090, +0.121]`."""
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def _verdict(gains: Sequence[Gain]) -> Literal["paid", "not paid", "unclear"]:
    named = {gain.name: gain for gain in gains}
    deciding = [named[name] for name in (OVERLAP, DISTORTION) if name in named]
    if not deciding:
        deciding = [named[KNN_ACCURACY]] if KNN_ACCURACY in named else list(gains)
    worse = [gain.name for gain in deciding if gain.worse]
    if OVERLAP in worse or (worse and not any(gain.better for gain in deciding)):
        return "not paid"
    accuracy_is_lost = KNN_ACCURACY in named and named[KNN_ACCURACY].worse
    if all(gain.better for gain in deciding) and not accuracy_is_lost:
        return "paid"
    return "unclear"


def _gains(evaluation: Evaluation, before: Baseline) -> Iterator[Gain]:
    ours, theirs = evaluation.fidelity, before.fidelity
    if ours is not None and theirs is not None:
        yield from _of_fidelity(evaluation, ours, theirs)
    yield from _of_quality(evaluation, evaluation.student, before.quality)


def _of_fidelity(
    evaluation: Evaluation, ours: Fidelity, theirs: Fidelity
) -> Iterator[Gain]:
    pairs = {
        OVERLAP: (ours.neighbour_overlap, theirs.neighbour_overlap),
        DISTORTION: (ours.angle_distortion, theirs.angle_distortion),
    }
    for name, (student, undistilled) in pairs.items():
        if name in evaluation.gains:
            yield Gain(
                name=name,
                student=student,
                undistilled=undistilled,
                difference=evaluation.gains[name],
                lower_is_better=name == DISTORTION,
            )


def _of_quality(evaluation: Evaluation, ours: Quality, theirs: Quality) -> Iterator[Gain]:
    pairs = {
        KNN_ACCURACY: (ours.knn_accuracy, theirs.knn_accuracy),
        LINEAR_ACCURACY: (ours.linear_accuracy, theirs.linear_accuracy),
    } | {
        auroc_of(name): (
            evaluation.auroc_in_force(ours, name),
            evaluation.auroc_in_force(theirs, name),
        )
        for name in evaluation.unfamiliar
    }
    for name, (student, undistilled) in pairs.items():
        if student is None or undistilled is None or name not in evaluation.gains:
            continue
        yield Gain(
            name=name,
            student=student.value,
            undistilled=undistilled.value,
            difference=evaluation.gains[name],
            lower_is_better=False,
        )
