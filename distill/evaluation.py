"""What was kept of the teacher: angles, neighbours, accuracy, OOD detection."""

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import roc_auc_score

from bundle import Detector, DetectorSpec
from bundle.collection import Indices
from bundle.neighbours import NEIGHBOURS, nearest, neighbour_overlap
from distill.data import Data
from distill.embedding import Embedded
from distill.trainer import EpochMeans

TEMPERATURE = 0.07


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fidelity(_Record):
    """How far the student keeps the teacher's angles, test images against the bank."""

    angle_distortion: float  # mean |cos_student - cos_teacher| over test-bank pairs
    neighbour_overlap: float  # mean share of the teacher's 10 nearest that are kept


class Quality(_Record):
    """What one model's embeddings are good for."""

    knn_accuracy: float | None  # k = 10, T = 0.07; None without classes
    ood_auroc: dict[str, dict[str, float]] | None  # by set and detector; None without sets


class Evaluation(_Record):
    """The content of `evaluation.json`."""

    bank_images: int
    test_images: int
    unfamiliar_images: int
    fidelity: Fidelity
    teacher: Quality
    student: Quality
    training: tuple[dict[str, float], ...]  # mean loss terms per epoch


def evaluate(
    data: Data, teacher: Embedded, student: Embedded, logs: tuple[EpochMeans, ...]
) -> Evaluation:
    """Judge both models on the same images and compare their cosines."""
    bank_labels = data.familiar.labels(data.bank)
    test_labels = data.held_out.labels(data.split.test)
    return Evaluation(
        bank_images=len(data.bank),
        test_images=len(data.split.test),
        unfamiliar_images=sum(len(each.flaggable) for each in data.unfamiliar.values()),
        fidelity=fidelity(teacher, student),
        teacher=quality(teacher, bank_labels, test_labels),
        student=quality(student, bank_labels, test_labels),
        training=logs,
    )


def fidelity(teacher: Embedded, student: Embedded) -> Fidelity:
    """Compare the cosines of every test image with every bank image."""
    before, after = teacher.test @ teacher.bank.T, student.test @ student.bank.T
    return Fidelity(
        angle_distortion=float(np.abs(after - before).mean()),
        neighbour_overlap=neighbour_overlap(before, after, k=_neighbours(teacher)),
    )


def quality(
    embedded: Embedded, bank_labels: Indices | None, test_labels: Indices | None
) -> Quality:
    """Measure accuracy, where there are classes, and OOD detection by every detector."""
    accuracy = None
    if bank_labels is not None and test_labels is not None:
        accuracy = knn_accuracy(embedded.bank, bank_labels, embedded.test, test_labels)
    auroc = None
    if embedded.unfamiliar:
        detectors = {
            name: spec.fit(embedded.bank, bank_labels)
            for name, spec in _detectors(len(embedded.bank), bank_labels).items()
        }
        auroc = {
            name: {
                detector: _auroc(fitted, embedded.test, unfamiliar)
                for detector, fitted in detectors.items()
            }
            for name, unfamiliar in embedded.unfamiliar.items()
        }
    return Quality(knn_accuracy=accuracy, ood_auroc=auroc)


def knn_accuracy(
    bank: Float32[np.ndarray, "bank d"],
    bank_labels: Indices,
    test: Float32[np.ndarray, "test d"],
    test_labels: Indices,
) -> float:
    """Return the accuracy of the 10 nearest, each voting with exp(cos / 0.07)."""
    cosines = test @ bank.T
    voters = nearest(cosines, min(NEIGHBOURS, len(bank)))
    weights = np.exp(np.take_along_axis(cosines, voters, axis=1) / TEMPERATURE)
    votes = np.zeros((len(test), int(bank_labels.max()) + 1))
    rows = np.arange(len(test))[:, None]
    np.add.at(votes, (rows, bank_labels[voters]), weights)
    return float((votes.argmax(axis=1) == test_labels).mean())


def _detectors(bank_images: int, labels: Indices | None) -> dict[str, DetectorSpec]:
    found = {"knn_k1": DetectorSpec(name="knn", k=1)}
    if bank_images >= 50:
        found["knn_k50"] = DetectorSpec(name="knn", k=50)
    found["mahalanobis"] = DetectorSpec(name="mahalanobis")
    if labels is not None:
        found["relative_mahalanobis"] = DetectorSpec(name="relative_mahalanobis")
    return found


def _auroc(
    detector: Detector,
    test: Float32[np.ndarray, "m d"],
    unfamiliar: Float32[np.ndarray, "u d"],
) -> float:
    scores = np.concatenate([detector.score(test), detector.score(unfamiliar)])
    is_unfamiliar = np.repeat([0, 1], [len(test), len(unfamiliar)])
    return float(roc_auc_score(is_unfamiliar, scores))


def _neighbours(embedded: Embedded) -> int:
    return min(NEIGHBOURS, len(embedded.bank))
