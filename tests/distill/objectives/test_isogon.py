import pytest
import torch
import torch.nn.functional as F

from distill.objectives.isogon import IsogonObjective
from isogon.networks import Features


def features(batch: int, grid: tuple[int, int], width: int, **options: object) -> Features:
    tokens = torch.randn(batch, 1 + grid[0] * grid[1], width, **options)
    return Features(tokens=tokens, grid=grid)


def test_isogon_is_the_naive_sum_of_its_terms() -> None:
    objective = IsogonObjective(12, 6, pairs_weight=3.0)
    student, teacher = features(4, (2, 2), 6), features(4, (2, 2), 12)
    terms = objective(student, teacher)
    z = torch.stack(
        [
            torch.stack([objective.compression @ (t / t.norm()) for t in image])
            for image in teacher.tokens
        ]
    )
    cosine = F.cosine_similarity

    def difference(a: torch.Tensor, b: torch.Tensor) -> float:
        n = len(a)
        squares = [
            (cosine(a[i], a[j], dim=0) - cosine(b[i], b[j], dim=0)).item() ** 2
            for i in range(n)
            for j in range(n)
            if i != j
        ]
        return sum(squares) / len(squares)

    tokens = [difference(a, b) for a, b in zip(student.tokens, teacher.tokens, strict=True)]
    expected = {
        "token": 1 - cosine(student.pooled, z[:, 0]).mean().item(),
        "feature": 1 - cosine(student.tokens.flatten(1), z.flatten(1)).mean().item(),
        "pairs": 3.0 * (difference(student.pooled, teacher.pooled) + sum(tokens) / 4),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4)


def test_isogon_starts_from_the_principal_axes_of_the_teachers_unit_vectors() -> None:
    torch.manual_seed(0)
    objective = IsogonObjective(12, 4, pairs_weight=3.0)
    vectors = torch.randn(50, 4) @ torch.randn(4, 12)  # of rank 4: nothing is lost
    teacher = Features(tokens=vectors[:, None], grid=(0, 0))
    objective.start([(teacher, None)])
    targets = objective.student_targets(vectors)
    units = F.normalize(vectors, dim=1)
    assert torch.allclose(targets @ targets.T, units @ units.T, atol=1e-5)
    student = Features(tokens=targets[:, None], grid=(0, 0))
    assert sum(objective(student, teacher).values()).item() == pytest.approx(0, abs=1e-5)


def test_isogon_has_nothing_of_its_own_to_train() -> None:
    objective = IsogonObjective(12, 6, pairs_weight=3.0)
    assert list(objective.parameters()) == []
    assert "compression" in objective.state_dict()


def test_a_student_wider_than_its_teacher_is_possible() -> None:
    objective = IsogonObjective(4, 6, pairs_weight=1.0)
    teacher = features(5, (1, 2), 4)
    objective.start([(teacher, None)])
    targets = objective.student_targets(teacher.pooled)
    assert targets.shape == (5, 6)
    assert torch.allclose(targets.norm(dim=1), torch.ones(5), atol=1e-5)
