"""The schema of `evaluation.json`: every figure, with what it was measured on.

A figure that could not be measured is None or absent, never a guess: accuracy needs
classes, OOD detection needs unfamiliar images, and a teacher known only by stored
embeddings has none for images it never saw.
"""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

EVALUATION = "evaluation.json"

Kind = Literal["near", "far"]
Role = Literal["teacher", "student"]

# The keys of `Evaluation.gains`, beside those of the unfamiliar sets.
DISTORTION = "angle distortion"
OVERLAP = "overlap@10"
KNN_ACCURACY = "kNN accuracy"
LINEAR_ACCURACY = "linear probe accuracy"


def auroc_of(unfamiliar: str) -> str:
    """Return the key of this unfamiliar set in `Evaluation.gains`."""
    return f"AUROC {unfamiliar}"


class _Record(BaseModel):
    # JSON has no NaN: what would be written as null is refused when it is made.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Estimate(_Record):
    """A figure and the 95 % interval that resampling the test images gives it."""

    value: float
    low: float
    high: float


class Bootstrap(_Record):
    """How the intervals were made: percentiles over resamples, with replacement."""

    resamples: int
    seed: int


class Fidelity(_Record):
    """How far the student keeps the teacher's angles, test images against the bank."""

    angle_distortion: float  # mean |cos_student - cos_teacher| over test-bank pairs
    neighbour_overlap: float  # mean share of the teacher's 10 nearest that are kept
    # Of the test embeddings, centred; 1 is equal up to rotation. None without variation.
    linear_cka: float | None
    # Share of the teacher's 10 nearest that a student query finds in an index of the
    # teacher's vectors; None unless the student lives in the teacher's space.
    teacher_index_recall: float | None = None


class OodFigures(_Record):
    """How well one detector tells one unfamiliar set from the familiar test images.

    Both conventions of FPR95 are lower when better.
    """

    auroc: Estimate
    # Share of familiar images flagged when 95 % of the unfamiliar are (OpenOOD).
    fpr95_ood_positive: float
    # Share of unfamiliar images passed when 95 % of the familiar are (ViM, CosPress).
    fpr95_id_positive: float


class Corruptions(_Record):
    """kNN accuracy on corrupted test images against the clean bank."""

    images: int  # a seeded subset of the test images
    severities: tuple[int, ...]  # 1 to 5; each accuracy is the mean over these
    clean_accuracy: float  # of the same images, uncorrupted
    accuracy: dict[str, float]  # by corruption

    @property
    def mean_accuracy(self) -> float:
        """The mean over the corruptions."""
        return float(np.mean(list(self.accuracy.values())))


class Quality(_Record):
    """What one model's embeddings are good for."""

    # Accuracies are None without classes, or with none that test and bank share.
    knn_accuracy: Estimate | None  # k = 10, T = 0.07
    linear_accuracy: Estimate | None  # of a linear probe
    ood: dict[str, dict[str, OodFigures]]  # by unfamiliar set, then by detector
    corruptions: Corruptions | None = None  # None where not measured


class Baseline(_Record):
    """What the student's network does without distillation, on the same images."""

    fidelity: Fidelity | None  # None without the teacher
    quality: Quality


class ClassAccuracy(_Record):
    """kNN accuracy on the test images of one class."""

    images: int
    student: float
    undistilled: float | None = None  # None where that network was not measured
    teacher: float | None = None  # None without the teacher


class Cost(_Record):
    """What one image costs, as the student was trained: eager torch, float32."""

    weights_bytes: int  # of all weights
    milliseconds: float  # for a batch of one: the median of several
    machine: str


class UnfamiliarSet(_Record):
    """One set of images that the OOD score should flag."""

    images: int
    kind: Kind
    # How many of them the student's detector flags, calibrated as an artifact is, at the
    # recipe's alpha; None in older bundles, and without calibration images.
    flagged: int | None = None


class Copies(_Record):
    """Images that are equal or nearly so, which never play two roles."""

    images: int  # readable familiar images that share their picture with another
    pictures: int  # how many pictures these show
    left_out: int  # of them, copies of held-out images, which play no role
    # Copies of familiar images that were left out of `test` and of unfamiliar sets.
    shared: dict[str, int]
    examples: tuple[tuple[str, str], ...]  # names of a few that show one picture


class Training(_Record):
    """How the run went."""

    terms: tuple[dict[str, float], ...]  # mean of each loss term, weighted, per epoch
    seconds_per_epoch: float | None = None  # mean; None where it was not measured
    steps: int | None = None  # optimiser steps; None in older bundles
    kept_step: int | None = None  # the step whose weights were kept; 0 is the start
    # (step, overlap@10, angle distortion) among the validation images.
    validated: tuple[tuple[int, float, float], ...] = ()


class Evaluation(_Record):
    """The content of `evaluation.json`."""

    bank_images: int
    test_images: int
    # SHA-256 of the test images' names: bundles that differ in it are not comparable.
    test_digest: str
    unfamiliar: dict[str, UnfamiliarSet]
    detector: str  # the recipe's, among those of `ood`
    bootstrap: Bootstrap
    fidelity: Fidelity | None  # None without the teacher
    teacher: Quality | None  # None without the teacher
    student: Quality
    training: Training
    # The same network before training, its unit pooled vectors brought to the student's
    # width by uncentred PCA. None in older bundles, and where its weights were not at hand.
    undistilled: Baseline | None = None
    # The student after the closed-form start, before any step. None without such a start.
    start: Baseline | None = None
    pretrained: bool | None = None  # whether that network had pretrained weights
    # Student minus undistilled, by figure ("angle distortion", "overlap@10", "kNN
    # accuracy", "AUROC <set>"), each with the paired interval: both on the same images.
    gains: dict[str, Estimate] = {}
    # By class, those that test images have. Empty in older bundles and without classes.
    classes: dict[str, ClassAccuracy] = {}
    cost: Cost | None = None  # None in older bundles
    copies: Copies | None = None  # None in older bundles, and where no image is a copy
    # By the name of each of several teachers; `fidelity` is to all of them joined.
    fidelity_to_each: dict[str, Fidelity] = {}

    def kinds(self) -> dict[Kind, list[str]]:
        """Return the names of the unfamiliar sets by kind, the kinds that occur."""
        found: dict[Kind, list[str]] = {}
        for name, one in self.unfamiliar.items():
            found.setdefault(one.kind, []).append(name)
        return found

    def auroc_in_force(self, quality: Quality, unfamiliar: str) -> Estimate | None:
        """Return the AUROC of the recipe's detector on this set, where there is one."""
        figures = quality.ood.get(unfamiliar, {}).get(self.detector)
        return None if figures is None else figures.auroc

    def mean_auroc(self, quality: Quality, kind: Kind) -> dict[str, float]:
        """Return each detector's mean AUROC over the sets of this kind.

        Only detectors and sets that `quality` has: empty where it has none.
        """
        sets = [quality.ood[name] for name in self.kinds()[kind] if name in quality.ood]
        shared = (
            [name for name in sets[0] if all(name in one for one in sets)] if sets else []
        )
        return {
            detector: float(np.mean([one[detector].auroc.value for one in sets]))
            for detector in shared
        }
