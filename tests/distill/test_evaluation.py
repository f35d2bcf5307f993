from pathlib import Path

import numpy as np
import pytest

from distill.embedding import RoleEmbeddings
from distill.evaluation.accuracy import (
    BOOTSTRAP,
    AurocBootstrap,
    accuracy_estimate,
    knn_right,
)
from distill.evaluation.model_figures import (
    BLOCK,
    Measurement,
    fidelity,
    linear_cka,
    model_figures,
)
from distill.evaluation.ood import (
    detector_key,
    detectors_for,
    fpr95_id_positive,
    fpr95_ood_positive,
    ood_figures,
    ood_scores,
)
from isogon.bundle.evaluation import (
    Evaluation,
    OodFigures,
    Quality,
    Training,
    UnfamiliarSet,
)
from isogon.ood import DetectorSpec, LinearProbe

GOLDEN = Path(__file__).parents[1] / "golden" / "ood.npz"
GENERATOR = np.random.default_rng(0)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def embedded(
    width: int, familiar: float = 0.0, unfamiliar: float = 0.0, bank: int = 60
) -> RoleEmbeddings:
    return RoleEmbeddings(
        bank=unit(GENERATOR.normal(size=(bank, width)) + familiar),
        test=unit(GENERATOR.normal(size=(25, width)) + familiar),
        unfamiliar={"elsewhere": unit(GENERATOR.normal(size=(15, width)) + unfamiliar)},
    )


def resamples(data: RoleEmbeddings) -> dict[str, AurocBootstrap]:
    return {
        name: AurocBootstrap(len(data.test), len(vectors))
        for name, vectors in data.unfamiliar.items()
    }


def quality(
    data: RoleEmbeddings,
    labels: np.ndarray | None,
    test_labels: np.ndarray | None,
    detector: DetectorSpec,
) -> Quality:
    judge = Measurement(
        detector=detector,
        bank_labels=labels,
        test_labels=test_labels,
        resamples=resamples(data),
    )
    return model_figures(data, judge).quality


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
    found = fidelity(teacher, student, same_space=False)
    assert found.angle_distortion == pytest.approx(np.mean(differences), abs=1e-6)
    assert found.neighbour_overlap == pytest.approx(np.mean(shares))
    assert found.teacher_index_recall is None


def test_fidelity_in_blocks_is_that_of_all_rows_at_once() -> None:
    several = BLOCK + 300  # two blocks of different lengths
    teacher, student = (
        RoleEmbeddings(
            bank=unit(GENERATOR.normal(size=(40, width))),
            test=unit(GENERATOR.normal(size=(several, width))),
            unfamiliar={},
        )
        for width in (12, 5)
    )
    before, after = teacher.test @ teacher.bank.T, student.test @ student.bank.T
    found = fidelity(teacher, student, same_space=False)
    assert found.angle_distortion == pytest.approx(np.abs(after - before).mean(), rel=1e-5)


def test_a_rotated_teacher_is_undistorted_but_cannot_query_its_index() -> None:
    teacher = embedded(12)
    rotation = np.linalg.qr(GENERATOR.normal(size=(12, 12)))[0].astype(np.float32)
    student = RoleEmbeddings(
        bank=teacher.bank @ rotation, test=teacher.test @ rotation, unfamiliar={}
    )
    found = fidelity(teacher, student, same_space=True)
    assert found.angle_distortion == pytest.approx(0, abs=1e-6)
    assert found.neighbour_overlap == pytest.approx(1, abs=0.01)
    assert found.linear_cka == pytest.approx(1, abs=1e-5)
    assert found.teacher_index_recall is not None
    assert found.teacher_index_recall < 0.6
    assert fidelity(teacher, teacher, same_space=True).teacher_index_recall == 1


def test_linear_cka_equals_its_kernel_form() -> None:
    """HSIC of the centred Gram matrices, Kornblith et al., equations 2 and 3."""
    x, y = GENERATOR.normal(size=(30, 7)), GENERATOR.normal(size=(30, 4))
    center = np.eye(30) - 1 / 30
    k, m = center @ x @ x.T @ center, center @ y @ y.T @ center
    kernel = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert linear_cka(x, y) == pytest.approx(kernel)
    rotation = np.linalg.qr(GENERATOR.normal(size=(7, 7)))[0]
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)


def test_knn_accuracy_equals_a_naive_vote() -> None:
    data = embedded(6)
    bank_labels, test_labels = GENERATOR.integers(0, 3, 60), GENERATOR.integers(0, 3, 25)
    right = []
    for test, label in zip(data.test, test_labels, strict=True):
        nearest = sorted(range(60), key=lambda j: -(test @ data.bank[j]))[:10]
        votes = [0.0] * 3
        for j in nearest:
            votes[bank_labels[j]] += np.exp(test @ data.bank[j] / 0.07)
        right.append(int(np.argmax(votes)) == label)
    assert knn_right(data.bank, bank_labels, data.test, test_labels).tolist() == right


def test_the_accuracys_interval_is_that_of_resampled_images() -> None:
    right = GENERATOR.random(400) < 0.7
    found = accuracy_estimate(right)
    drawn = [right[GENERATOR.integers(400, size=400)].mean() for _ in range(4000)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    assert found.value == right.mean()
    assert found.low == pytest.approx(low, abs=0.006)
    assert found.high == pytest.approx(high, abs=0.006)


def test_the_aurocs_interval_is_that_of_resampled_images_ties_included() -> None:
    from sklearn.metrics import roc_auc_score

    familiar = GENERATOR.integers(0, 30, 150) / 10
    unfamiliar = GENERATOR.integers(10, 40, 80) / 10

    def auroc(f: np.ndarray, u: np.ndarray) -> float:
        return float(roc_auc_score(np.repeat([0, 1], [150, 80]), np.concatenate([f, u])))

    found = AurocBootstrap(150, 80).estimate(familiar, unfamiliar)
    drawn = [
        auroc(
            familiar[GENERATOR.integers(150, size=150)],
            unfamiliar[GENERATOR.integers(80, size=80)],
        )
        for _ in range(1500)
    ]
    low, high = np.percentile(drawn, (2.5, 97.5))
    assert found.value == pytest.approx(auroc(familiar, unfamiliar))
    assert found.low == pytest.approx(low, abs=0.008)
    assert found.high == pytest.approx(high, abs=0.008)
    assert AurocBootstrap(150, 80).estimate(familiar, unfamiliar) == found


def test_fpr95_counts_as_its_names_say() -> None:
    familiar, unfamiliar = np.arange(100.0), np.arange(90.0, 110.0)
    # 19 of the 20 unfamiliar score at least 91; so do 9 of the 100 familiar.
    assert fpr95_ood_positive(familiar, unfamiliar) == pytest.approx(0.09)
    # 95 of the 100 familiar score at most 94; so do 5 of the 20 unfamiliar.
    assert fpr95_id_positive(familiar, unfamiliar) == pytest.approx(0.25)


def test_auroc_and_both_fpr95_are_those_of_openood() -> None:
    golden = np.load(GOLDEN)
    scores = [name.removeprefix("conf_") for name in golden if name.startswith("conf_")]
    assert len(scores) > 8
    familiar = len(golden["id_features"])
    resampled = AurocBootstrap(familiar, len(golden["ood_features"]))
    for score in scores:
        ours = -golden[f"conf_{score}"]
        sides = ours[:familiar], ours[familiar:]
        auroc, ood_positive, id_positive, *_ = golden[f"metrics_{score}"]
        assert resampled.estimate(*sides).value == pytest.approx(auroc, abs=1e-9), score
        assert fpr95_ood_positive(*sides) == pytest.approx(ood_positive, abs=1e-9), score
        assert fpr95_id_positive(*sides) == pytest.approx(id_positive, abs=1e-9), score


def test_accuracy_and_ood_are_absent_where_they_mean_nothing() -> None:
    data = embedded(6)
    alone = RoleEmbeddings(bank=data.bank, test=data.test, unfamiliar={})
    found = quality(alone, None, None, DetectorSpec(name="knn"))
    assert (found.knn_accuracy, found.linear_accuracy, found.ood) == (None, None, {})


def test_every_detector_that_applies_is_evaluated_and_the_recipes_too() -> None:
    data = embedded(6, familiar=4.0, unfamiliar=-4.0)
    labels = GENERATOR.integers(0, 3, 60)
    wanted = DetectorSpec(name="knn", k=7)
    labelled = quality(data, labels, labels[:25], wanted)
    without = quality(data, None, None, wanted)
    names = {"knn_k1", "knn_k7", "knn_k50", "mahalanobis", "residual"}
    assert set(without.ood["elsewhere"]) == names
    assert set(labelled.ood["elsewhere"]) > names | {"relative_mahalanobis", "energy"}
    assert labelled.ood["elsewhere"]["knn_k7"].auroc.value > 0.99
    assert labelled.linear_accuracy is not None


def test_a_bank_of_one_class_has_no_accuracy() -> None:
    data = embedded(6)
    labels = np.zeros(60, int)
    found = quality(data, labels, labels[:25], DetectorSpec(name="knn"))
    assert (found.knn_accuracy, found.linear_accuracy) == (None, None)
    assert "knn_k1" in found.ood["elsewhere"]


def test_a_test_of_other_classes_than_the_banks_has_no_accuracy() -> None:
    data = embedded(6)
    labels, others = np.arange(60), np.arange(60, 85)
    wanted = DetectorSpec(name="knn")
    found = quality(data, labels, others, wanted)
    assert (found.knn_accuracy, found.linear_accuracy) == (None, None)
    assert "energy" in found.ood["elsewhere"]
    others[0] = 59  # one that may be right
    assert quality(data, labels, others, wanted).knn_accuracy is not None


def test_a_detector_impossible_at_this_width_is_left_out() -> None:
    wanted = DetectorSpec(name="residual", dim=8)
    assert detector_key(wanted) in detectors_for(embedded(12), False, wanted)
    assert detector_key(wanted) not in detectors_for(embedded(6), False, wanted)


def test_ood_figures_are_those_of_the_detectors_scores() -> None:
    data = embedded(6, familiar=1.0)
    labels = GENERATOR.integers(0, 3, 60)
    probe = LinearProbe.fit(data.bank, labels)
    spec = DetectorSpec(name="energy")
    scores = ood_scores(data, labels, {"energy": spec}, probe)
    found = ood_figures(scores, resamples(data))
    detector = spec.fit(data.bank, labels)
    familiar = detector.score(data.test)
    unfamiliar = detector.score(data.unfamiliar["elsewhere"])
    higher = np.mean([u > f for u in unfamiliar for f in familiar])
    assert found["elsewhere"]["energy"].auroc.value == pytest.approx(higher)
    assert found["elsewhere"]["energy"].fpr95_ood_positive == fpr95_ood_positive(
        familiar, unfamiliar
    )


def evaluation(**sets: tuple[str, float]) -> Evaluation:
    """An evaluation whose detector has these AUROCs; each set as (kind, AUROC)."""

    def figures(auroc: float) -> OodFigures:
        estimate = {"value": auroc, "low": auroc - 0.1, "high": auroc + 0.1}
        document = {"auroc": estimate, "fpr95_ood_positive": 0.5, "fpr95_id_positive": 0.4}
        return OodFigures.model_validate(document)

    student = Quality(
        knn_accuracy=None,
        linear_accuracy=None,
        ood={name: {"knn_k1": figures(auroc)} for name, (_, auroc) in sets.items()},
    )
    return Evaluation(
        bank_images=60,
        test_images=25,
        test_digest="0" * 64,
        unfamiliar={
            name: UnfamiliarSet.model_validate({"images": 15, "kind": kind})
            for name, (kind, _) in sets.items()
        },
        detector="knn_k1",
        bootstrap=BOOTSTRAP,
        fidelity=None,
        teacher=None,
        student=student,
        training=Training(terms=({"loss": 1.0},)),
    )


def test_aurocs_are_averaged_within_near_and_far() -> None:
    found = evaluation(a=("near", 0.6), b=("far", 0.8), c=("far", 1.0))
    assert found.kinds() == {"near": ["a"], "far": ["b", "c"]}
    assert found.mean_auroc(found.student, "far") == {"knn_k1": pytest.approx(0.9)}
    assert found.mean_auroc(found.student, "near") == {"knn_k1": pytest.approx(0.6)}
    nothing = Quality(knn_accuracy=None, linear_accuracy=None, ood={})
    assert found.mean_auroc(nothing, "far") == {}


def test_an_evaluation_survives_being_written() -> None:
    found = evaluation(a=("near", 0.6))
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
