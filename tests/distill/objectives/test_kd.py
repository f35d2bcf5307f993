import pytest
import torch
import torch.nn.functional as F

from distill.objectives.kd import Kd, kd_loss
from isogon.errors import UsageError
from isogon.networks import Features


def at(pooled: torch.Tensor) -> Features:
    """Features known by their embeddings alone."""
    return Features(tokens=pooled[:, None], grid=(0, 0))


def clusters(classes: int, width: int, each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors around a centre per class, far from the origin and of unequal scales."""
    centres = 3 * torch.randn(classes, width)
    labels = torch.arange(classes).repeat(each)
    scales = torch.logspace(-1, 1, width)
    return (centres[labels] + torch.randn(len(labels), width)) * scales + 5, labels


def kd(classes: int = 3, **changes: float) -> Kd:
    options = {"temperature": 4.0, "kd_weight": 1.0, "warmup_epochs": 0.0} | changes
    return Kd(6, 4, classes, **options)


def test_kd_equals_a_naive_loop() -> None:
    student, teacher = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        q, p = torch.softmax(s / 4, dim=0), torch.softmax(t / 4, dim=0)
        total += (p * (p.log() - q.log())).sum().item()
    assert kd_loss(student, teacher, 4.0).item() == pytest.approx(16 * total / 5)


def test_kd_is_blind_to_a_constant_on_all_logits_of_an_image() -> None:
    student, teacher = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    before = kd_loss(student, teacher, 2.0)
    after = kd_loss(student + torch.randn(5, 1), teacher + torch.randn(5, 1), 2.0)
    assert after.item() == pytest.approx(before.item())
    assert kd_loss(teacher + 1, teacher, 2.0).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_teachers_logits_are_those_of_a_fitted_classifier(classes: int) -> None:
    vectors, labels = clusters(classes, 6, 30)
    objective = kd(classes)
    objective.start([(at(vectors[:40]), labels[:40]), (at(vectors[40:]), labels[40:])])
    logits = F.linear(vectors, objective.probe_weight, objective.probe_bias)
    assert (logits.argmax(dim=1) == labels).float().mean() > 0.95
    student = torch.randn(len(labels), 4)
    terms = objective(at(student), at(vectors), labels)
    ours = objective.head(student)
    assert terms["cross_entropy"].item() == pytest.approx(
        F.cross_entropy(ours, labels).item()
    )
    assert terms["kd"].item() == pytest.approx(kd_loss(ours, logits, 4.0).item())


def test_kd_gives_a_class_without_images_no_probability() -> None:
    vectors, labels = clusters(3, 6, 20)
    labels = torch.tensor([0, 2, 4])[labels]
    objective = kd(5, temperature=1.0)
    objective.start([(at(vectors), labels)])
    logits = F.linear(vectors, objective.probe_weight, objective.probe_bias)
    p = torch.softmax(logits, dim=1)
    assert p[:, [1, 3]].max() == 0
    terms = objective(at(torch.randn(60, 4)), at(vectors), labels)
    assert torch.isfinite(terms["kd"])


def test_kd_grows_to_its_weight_over_the_warm_up() -> None:
    vectors, labels = clusters(3, 6, 20)
    objective = kd(kd_weight=2.5, warmup_epochs=5.0)
    objective.start([(at(vectors), labels)])
    student = at(torch.randn(60, 4))

    def term() -> float:
        return objective(student, at(vectors), labels)["kd"].item()

    full = term()  # before any call
    found = []
    for epoch in (0.0, 1.0, 2.5, 5.0, 9.0):
        objective.at_epoch(epoch)
        found.append(term() / full)
    assert found == pytest.approx([0.0, 0.2, 0.5, 1.0, 1.0])
    objective = kd()
    objective.at_epoch(0.0)
    assert objective.ramp == 1.0


def test_kd_keeps_its_classifier_in_the_state_dict() -> None:
    vectors, labels = clusters(3, 6, 20)
    before, after = kd(), kd()
    before.start([(at(vectors), labels)])
    assert torch.isnan(after.probe_weight).all()  # a start that was forgotten is noticed
    after.load_state_dict(before.state_dict())
    assert torch.equal(after.probe_weight, before.probe_weight)
    assert torch.equal(after.probe_bias, before.probe_bias)


def test_kd_says_what_is_wrong_with_labels() -> None:
    objective = kd()
    vectors = torch.randn(4, 6)
    with pytest.raises(UsageError, match="needs the class of each image"):
        objective(at(torch.randn(4, 4)), at(vectors))
    with pytest.raises(UsageError, match="needs two or more classes, got 1"):
        objective.start([(at(vectors), torch.zeros(4, dtype=torch.int64))])
    with pytest.raises(UsageError, match="from 0 to 2, but got 0 to 3"):
        objective.start([(at(vectors), torch.arange(4))])
