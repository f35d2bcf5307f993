import pytest
import torch
import torch.nn.functional as F

from backbones import Features
from distill.objectives import CosPress, Isogon

TEMPERATURES = tuple(step / 100 for step in range(1, 11))


def features(batch: int, grid: tuple[int, int], width: int, **options: object) -> Features:
    tokens = torch.randn(batch, 1 + grid[0] * grid[1], width, **options)
    return Features(tokens=tokens, grid=grid)


def isogon(**weights: float) -> Isogon:
    return Isogon(CosPress(12, 6, TEMPERATURES), **weights)


def test_isogon_adds_squared_differences_of_cosines_to_cospress() -> None:
    objective = isogon(angle_weight=10.0, pairs_weight=3.0)
    student, teacher = features(4, (2, 2), 6), features(4, (2, 2), 12)
    terms = objective(student, teacher)
    z = objective.cospress.compressed(teacher)

    def difference(a: torch.Tensor, b: torch.Tensor) -> float:
        cosine = F.cosine_similarity
        n = len(a)
        squares = [
            (cosine(a[i], a[j], dim=0) - cosine(b[i], b[j], dim=0)).item() ** 2
            for i in range(n)
            for j in range(n)
            if i != j
        ]
        return sum(squares) / len(squares)

    for name, ours, weight in (("angle", z, 10.0), ("pairs", student, 3.0)):
        tokens = [
            difference(a, b) for a, b in zip(ours.tokens, teacher.tokens, strict=True)
        ]
        expected = weight * (difference(ours.pooled, teacher.pooled) + sum(tokens) / 4)
        assert terms[name].item() == pytest.approx(expected, rel=1e-4)
    for name, value in objective.cospress(student, teacher).items():
        assert terms[name].item() == pytest.approx(value.item())


def test_isogons_angle_teaches_the_head_and_its_pairs_the_student() -> None:
    objective = isogon(angle_weight=1.0, pairs_weight=1.0)
    student = features(4, (2, 2), 6, requires_grad=True)
    terms = objective(student, features(4, (2, 2), 12))
    head = objective.cospress.compress.weight
    options = {"allow_unused": True, "retain_graph": True}
    to_student, to_head = torch.autograd.grad(
        terms["angle"], [student.tokens, head], **options
    )
    assert to_student is None
    assert to_head is not None
    to_student, to_head = torch.autograd.grad(
        terms["pairs"], [student.tokens, head], **options
    )
    assert to_student is not None
    assert to_head is None
