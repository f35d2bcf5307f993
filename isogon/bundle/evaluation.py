"""The schema of `evaluation.json`: every figure, with what it was measured on.

Familiar images are in-distribution, unfamiliar ones out-of-distribution (OOD). A figure
that could not be measured is None or absent: accuracy needs classes, OOD detection needs
unfamiliar images, and a teacher with stored embeddings alone has none for other images.
"""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

EVALUATION = "evaluation.json"

Kind = Literal["near", "far"]
Role = Literal["teacher", "student"]

# The keys of `Evaluation.gains`, besides those of the unfamiliar sets.
DISTORTION = "angle distortion"
OVERLAP = "overlap@10"
KNN_ACCURACY = "kNN accuracy"
LINEAR_ACCURACY = "linear probe accuracy"


def auroc_of(unfamiliar: str) -> str:
    """Return the key of this unfamiliar set in `Evaluation.gains`."""
    return f"AUROC {unfamiliar}"


class _Record(BaseModel):
    # JSON has no NaN, so a record with NaN or infinity is refused.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Estimate(_Record):
    """A figure with its 95 % interval, from resampling the test images."""

    value: float
    low: float
    high: float


class Bootstrap(_Record):
    """How the intervals were computed: percentiles over resamples with replacement."""

    resamples: int
    seed: int


class Fidelity(_Record):
    """How well the student keeps the teacher's angles, between test images and bank."""

    angle_distortion: float  # mean |cos_student - cos_teacher| over test-bank pairs
    neighbour_overlap: float  # mean share of the teacher's 10 nearest that are kept
    # Of the centred test embeddings; 1: equal up to rotation. None if they do not vary.
    linear_cka: float | None
    # Share of the teacher's 10 nearest that a student query finds in an index of the
    # teacher's vectors; None unless the student lives in the teacher's space.
    teacher_index_recall: float | None = None


class OodFigures(_Record):
    """How well one detector tells one unfamiliar set from the familiar test images.

    FPR95 is lower when better, in both conventions.
    """

    auroc: Estimate
    # Share of familiar images flagged if 95 % of the unfamiliar are flagged (OpenOOD).
    fpr95_ood_positive: float
    # Share of unfamiliar images passed if 95 % of the familiar pass (ViM, CosPress).
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
    """Accuracy, OOD detection and robustness of one model's embeddings."""

    # None without classes, or if test and bank have no class in common.
    knn_accuracy: Estimate | None  # k = 10, T = 0.07
    linear_accuracy: Estimate | None  # of a linear probe
    ood: dict[str, dict[str, OodFigures]]  # by unfamiliar set, then by detector
    corruptions: Corruptions | None = None  # None where not measured


class Baseline(_Record):
    """The figures of the student's network without distillation, on the same images."""

    fidelity: Fidelity | None  # None without the teacher
    quality: Quality


class ClassAccuracy(_Record):
    """kNN accuracy on the test images of one class."""

    images: int
    student: float
    undistilled: float | None = None  # None if that network was not measured
    teacher: float | None = None  # None without the teacher


class Cost(_Record):
    """The cost of one image in eager float32 torch, before any export."""

    weights_bytes: int  # of all weights
    milliseconds: float  # for a batch of one: the median of several
    machine: str


class UnfamiliarSet(_Record):
    """One set of images that the OOD score should flag."""

    images: int
    kind: Kind
    # How many the student's detector flags at the recipe's alpha, calibrated as an artifact
    # is; None in older bundles, and without calibration images.
    flagged: int | None = None


class Copies(_Record):
    """Equal or nearly equal images, never in two roles such as training and test."""

    images: int  # readable familiar images with at least one copy
    pictures: int  # distinct pictures among these
    left_out: int  # those left out, because they are copies of held-out images
    # Copies of familiar images that were left out of `test` and of unfamiliar sets.
    shared: dict[str, int]
    examples: tuple[tuple[str, str], ...]  # names of a few pairs of copies


class Training(_Record):
    """The course of the training."""

    terms: tuple[dict[str, float], ...]  # mean of each loss term, weighted, per epoch
    seconds_per_epoch: float | None = None  # mean; None if not measured
    steps: int | None = None  # optimiser steps; None in older bundles
    kept_step: int | None = None  # the step whose weights were kept; 0: before training
    # (step, overlap@10, angle distortion) of the validation images.
    validated: tuple[tuple[int, float, float], ...] = ()


class Evaluation(_Record):
    """The content of `evaluation.json`."""

    bank_images: int
    test_images: int
    # SHA-256 of the test images' names; bundles with different digests are not comparable.
    test_digest: str
    unfamiliar: dict[str, UnfamiliarSet]
    detector: str  # the recipe's; a key of `Quality.ood`'s inner dictionaries
    bootstrap: Bootstrap
    fidelity: Fidelity | None  # None without the teacher
    teacher: Quality | None  # None without the teacher
    student: Quality
    training: Training
    # The same network before training; its unit-norm pooled vectors are reduced to the
    # student's width by uncentred PCA. None in older bundles, or without its weights.
    undistilled: Baseline | None = None
    # The student after its closed-form start, before the first step. None without one.
    start: Baseline | None = None
    pretrained: bool | None = None  # whether that network had pretrained weights
    # Student minus undistilled on the same images, with the paired interval, by figure
    # ("angle distortion", "overlap@10", "kNN accuracy", "AUROC <set>").
    gains: dict[str, Estimate] = {}
    # By class of the test images. Empty in older bundles and without classes.
    classes: dict[str, ClassAccuracy] = {}
    cost: Cost | None = None  # None in older bundles
    copies: Copies | None = None  # None in older bundles, and without copies
    # With several teachers, by name of each; `fidelity` is to all of them joined.
    fidelity_to_each: dict[str, Fidelity] = {}

    def kinds(self) -> dict[Kind, list[str]]:
        """Return the names of the unfamiliar sets, by kind."""
        found: dict[Kind, list[str]] = {}
        for name, one in self.unfamiliar.items():
            found.setdefault(one.kind, []).append(name)
        return found

    def auroc_in_force(self, quality: Quality, unfamiliar: str) -> Estimate | None:
        """Return the AUROC of the recipe's detector on this set, or None."""
        figures = quality.ood.get(unfamiliar, {}).get(self.detector)
        return None if figures is None else figures.auroc

    def mean_auroc(self, quality: Quality, kind: Kind) -> dict[str, float]:
        """Return each detector's mean AUROC over the sets of this kind.

        Sets and detectors that `quality` does not have are left out.
        """
        sets = [quality.ood[name] for name in self.kinds()[kind] if name in quality.ood]
        shared = (
            [name for name in sets[0] if all(name in one for one in sets)] if sets else []
        )
        return {
            detector: float(np.mean([one[detector].auroc.value for one in sets]))
            for detector in shared
        }
