import numpy as np
import pytest

from distill.embedding import Embedded
from distill.evaluation import fidelity, knn_accuracy, quality

GENERATOR = np.random.default_rng(0)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def embedded(width: int, familiar: float = 0.0, unfamiliar: float = 0.0) -> Embedded:
    return Embedded(
        bank=unit(GENERATOR.normal(size=(60, width)) + familiar),
        test=unit(GENERATOR.normal(size=(25, width)) + familiar),
        unfamiliar={"noise": unit(GENERATOR.normal(size=(15, width)) + unfamiliar)},
    )


def test_fidelity_equals_a_naive_loop() -> None:
    teacher, student = embedded(12), embedded(5)
    differences, shares = [], []
    for t, s in zip(teacher.test, student.test, strict=True):
        before = [float(t @ other) for other in teacher.bank]
        after = [float(s @ other) for other in student.bank]
        differences += [abs(a - b) for a, b in zip(before, after, strict=True)]
        ours = set(sorted(range(60), key=lambda j: -before[j])[:10])
        theirs = set(sorted(range(60), key=lambda j: -after[j])[:10])
        shares.append(len(ours & theirs) / 10)
    found = fidelity(teacher, student)
    assert found.angle_distortion == pytest.approx(np.mean(differences), abs=1e-6)
    assert found.neighbour_overlap == pytest.approx(np.mean(shares))


def test_a_rotated_teacher_is_undistorted() -> None:
    teacher = embedded(12)
    rotation = np.linalg.qr(GENERATOR.normal(size=(12, 12)))[0].astype(np.float32)
    student = Embedded(
        bank=teacher.bank @ rotation, test=teacher.test @ rotation, unfamiliar={}
    )
    found = fidelity(teacher, student)
    assert found.angle_distortion == pytest.approx(0, abs=1e-6)
    assert found.neighbour_overlap == pytest.approx(1, abs=0.01)


def test_knn_accuracy_equals_a_naive_vote() -> None:
    data = embedded(6)
    bank_labels, test_labels = GENERATOR.integers(0, 3, 60), GENERATOR.integers(0, 3, 25)
    right = 0
    for test, label in zip(data.test, test_labels, strict=True):
        nearest = sorted(range(60), key=lambda j: -(test @ data.bank[j]))[:10]
        votes = [0.0] * 3
        for j in nearest:
            votes[bank_labels[j]] += np.exp(test @ data.bank[j] / 0.07)
        right += int(np.argmax(votes) == label)
    found = knn_accuracy(data.bank, bank_labels, data.test, test_labels)
    assert found == pytest.approx(right / 25)


def test_auroc_is_high_for_what_lies_elsewhere_and_names_each_detector() -> None:
    data = embedded(6, familiar=4.0, unfamiliar=-4.0)
    labels = GENERATOR.integers(0, 3, 60)
    found = quality(data, labels, labels[:25]).ood_auroc
    without = quality(data, None, None).ood_auroc
    assert found is not None
    assert without is not None
    names = {"knn_k1", "knn_k50", "mahalanobis"}
    assert set(without["noise"]) == names
    assert set(found["noise"]) == names | {"relative_mahalanobis"}
    assert all(found["noise"][name] > 0.99 for name in names)


def test_accuracy_and_auroc_are_none_where_they_mean_nothing() -> None:
    data = embedded(6)
    alone = Embedded(bank=data.bank, test=data.test, unfamiliar={})
    found = quality(alone, None, None)
    assert (found.knn_accuracy, found.ood_auroc) == (None, None)
