import pytest
import torch

from distill.objectives.cosine import Cosine
from isogon.networks import Features


def features(batch: int, grid: tuple[int, int], width: int, **options: object) -> Features:
    tokens = torch.randn(batch, 1 + grid[0] * grid[1], width, **options)
    return Features(tokens=tokens, grid=grid)


def test_cosine_equals_its_formula_in_value_and_gradient() -> None:
    objective = Cosine(12, 6).double()
    student, teacher = features(4, (1, 1), 6), features(4, (1, 1), 12)
    s = student.tokens.double().requires_grad_()
    t = teacher.tokens.double()
    found = objective(Features(tokens=s, grid=(1, 1)), Features(tokens=t, grid=(1, 1)))[
        "cosine"
    ]
    found.backward()
    weight, bias = objective.expand.weight.detach(), objective.expand.bias.detach()
    value, gradient = 0.0, torch.zeros_like(s)
    for i in range(4):
        y, target = weight @ s[i, 0].detach() + bias, t[i, 0] / t[i, 0].norm()
        cosine = (y @ target) / y.norm()
        value += (1 - cosine.item()) / 4
        gradient[i, 0] = -weight.T @ (target - cosine * y / y.norm()) / y.norm() / 4
    assert found.item() == pytest.approx(value, rel=1e-12)
    assert s.grad is not None
    assert torch.allclose(s.grad, gradient, rtol=1e-9, atol=1e-12)
