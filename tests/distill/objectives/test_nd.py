import pytest
import torch

from distill.objectives.nd import Nd, nd_loss
from isogon.errors import UsageError
from isogon.networks import Features


def at(pooled: torch.Tensor) -> Features:
    """Features known by their embeddings alone."""
    return Features(tokens=pooled[:, None], grid=(0, 0))


def batches(teacher: torch.Tensor, labels: torch.Tensor, size: int = 7) -> list:
    """What an objective starts on: the set in batches of `size`."""
    parts = zip(teacher.split(size), labels.split(size), strict=True)
    return [(at(vectors), numbers) for vectors, numbers in parts]


def started(teacher: torch.Tensor, labels: torch.Tensor, student_width: int) -> Nd:
    objective = Nd(teacher.shape[1], student_width, int(labels.max()) + 1).double()
    objective.start(batches(teacher, labels))
    return objective


def test_nd_equals_a_naive_loop() -> None:
    student, teacher = torch.randn(6, 4).double(), torch.randn(6, 4).double()
    means, labels = torch.randn(3, 4).double(), torch.tensor([0, 2, 1, 1, 0, 2])
    total = 0.0
    for s, t, y in zip(student, teacher, labels, strict=True):
        direction = means[y] / means[y].norm()
        total += 1 - (s @ direction).item() / max(s.norm().item(), t.norm().item())
    found = nd_loss(student, teacher, means, labels)
    assert found.item() == pytest.approx(total / 6, rel=1e-12)


def test_nd_class_means_are_those_of_everything_seen_in_batches() -> None:
    teacher, labels = torch.randn(20, 5).double(), torch.arange(20) % 3
    means = started(teacher, labels, 5).class_means
    for number in range(3):
        assert torch.allclose(means[number], teacher[labels == number].mean(dim=0))


def test_nd_pushes_the_norm_only_below_the_teachers() -> None:
    """For a student in its class's direction, half the teacher's norm grows; twice stays."""
    direction = torch.tensor([[1.0, 0.0, 0.0]]).double()
    label = torch.tensor([0])
    for norm, slope in ((1.0, -0.5), (4.0, 0.0)):
        student = (norm * direction).requires_grad_()
        nd_loss(student, 2 * direction, direction, label).backward()
        assert student.grad is not None
        assert student.grad[0, 0].item() == pytest.approx(slope)


def test_nd_is_blind_to_a_common_rotation_and_a_common_scale() -> None:
    student, teacher = torch.randn(20, 5).double(), torch.randn(20, 5).double()
    labels = torch.arange(20) % 3
    rotation = torch.linalg.qr(torch.randn(5, 5).double()).Q
    before = started(teacher, labels, 5)(at(student), at(teacher), labels)["nd"]
    s, t = 3 * student @ rotation, 3 * teacher @ rotation
    after = started(t, labels, 5)(at(s), at(t), labels)["nd"]
    assert after.item() == pytest.approx(before.item(), rel=1e-10)
    alone = started(teacher, labels, 5)(at(s), at(teacher), labels)["nd"]
    assert abs(alone.item() - before.item()) > 1e-3


def test_nd_keeps_its_class_means_in_the_state_dict() -> None:
    teacher, labels = torch.randn(20, 5).double(), torch.arange(20) % 3
    before = started(teacher, labels, 4)
    after = Nd(5, 4, 3).double()
    assert torch.isnan(after.class_means).all()  # a start that was forgotten is noticed
    after.load_state_dict(before.state_dict())
    assert torch.equal(after.class_means, before.class_means)


def test_nd_maps_a_student_of_another_width_by_a_head_of_its_own() -> None:
    teacher, labels = torch.randn(20, 5).double(), torch.arange(20) % 3
    assert not list(Nd(5, 5, 3).parameters())
    objective = started(teacher, labels, 4)
    student = torch.randn(20, 4).double().requires_grad_()
    objective(at(student), at(teacher), labels)["nd"].backward()
    assert student.grad is not None
    kinds = [type(layer).__name__ for layer in objective.head]
    assert kinds == ["BatchNorm1d", "Dropout", "Linear"]
    assert objective.head[1].p == 0.5


def test_nd_says_what_is_wrong_with_labels() -> None:
    objective = Nd(5, 5, 3)
    vectors = torch.randn(4, 5)
    assert objective.start_on == "everything"
    with pytest.raises(UsageError, match="needs the class of each image"):
        objective(at(vectors), at(vectors))
    with pytest.raises(UsageError, match="from 0 to 2, but got 0 to 3"):
        objective.start([(at(vectors), torch.arange(4))])
