import math

import pytest
import torch
import torch.nn.functional as F

from backbones import Features
from distill.objectives import Cosine, CosPress
from distill.objectives.sne import sne_divergence

torch.manual_seed(0)
TEMPERATURES = tuple(step / 100 for step in range(1, 11))


def naive_sne(target: torch.Tensor, learned: torch.Tensor, temperatures: tuple) -> float:
    """The definition, with loops and probabilities: no log space, no closed form."""

    def joint(vectors: torch.Tensor, temperature: float) -> list[list[float]]:
        n = len(vectors)
        directions = F.normalize(vectors, dim=1)
        weight = [[0.0] * n for _ in range(n)]
        for i in range(n):
            for j in range(n):
                if i != j:
                    cosine = (directions[i] @ directions[j]).item()
                    weight[i][j] = math.exp(cosine / temperature)
        p = [[w / sum(row) for w in row] for row in weight]
        symmetric = [[p[i][j] + p[j][i] for j in range(n)] for i in range(n)]
        total = sum(map(sum, symmetric))
        return [[value / total for value in row] for row in symmetric]

    found = []
    for temperature in temperatures:
        p, q = joint(target, temperature), joint(learned, temperature)
        found.append(
            sum(
                p[i][j] * (math.log(p[i][j]) - math.log(q[i][j]))
                for i in range(len(p))
                for j in range(len(p))
                if i != j
            )
        )
    return sum(found) / len(found)


def features(batch: int, grid: tuple[int, int], width: int, **options: object) -> Features:
    tokens = torch.randn(batch, 1 + grid[0] * grid[1], width, **options)
    return Features(tokens=tokens, grid=grid)


def test_sne_equals_a_naive_loop() -> None:
    target, learned = torch.randn(7, 5).double(), torch.randn(7, 3).double()
    temperatures = (0.05, 0.1, 0.5)
    found = sne_divergence(target, learned, temperatures)
    assert found.item() == pytest.approx(
        naive_sne(target, learned, temperatures), rel=1e-10
    )


def test_sne_gradient_equals_finite_differences() -> None:
    target = torch.randn(2, 6, 5).double()
    learned = torch.randn(2, 6, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: sne_divergence(target, z, (0.05, 0.1)), learned
    )


def test_sne_is_blind_to_rotation_and_to_each_vectors_length() -> None:
    target, learned = torch.randn(8, 5).double(), torch.randn(8, 4).double()
    rotation = torch.linalg.qr(torch.randn(4, 4).double()).Q
    lengths = torch.rand(8, 1).double() + 0.5
    before = sne_divergence(target, learned, TEMPERATURES)
    after = sne_divergence(target, lengths * (learned @ rotation), TEMPERATURES)
    assert after.item() == pytest.approx(before.item())


def test_sne_is_zero_between_equal_sets_and_positive_otherwise() -> None:
    target = torch.randn(8, 5)
    assert sne_divergence(target, 3 * target, TEMPERATURES).item() == pytest.approx(
        0, abs=1e-5
    )
    assert sne_divergence(target, torch.randn(8, 5), TEMPERATURES).item() > 0


def test_sne_stays_finite_where_probabilities_underflow() -> None:
    opposite = torch.cat([torch.ones(4, 3), -torch.ones(4, 3)])
    learned = torch.randn(8, 3).requires_grad_()
    divergence = sne_divergence(opposite, learned, (0.01,))
    divergence.backward()
    assert torch.isfinite(divergence)
    assert learned.grad is not None
    assert torch.isfinite(learned.grad).all()


def test_sne_keeps_float32_under_autocast() -> None:
    target, learned = torch.randn(16, 8), torch.randn(16, 4)
    expected = sne_divergence(target, learned, TEMPERATURES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sne_divergence(target, learned, TEMPERATURES)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_sne_needs_two_vectors() -> None:
    with pytest.raises(ValueError, match="at least 2 vectors"):
        sne_divergence(torch.randn(1, 4), torch.randn(1, 4), TEMPERATURES)


def test_cospress_teaches_the_head_by_sne_and_the_student_by_cosines() -> None:
    objective = CosPress(12, 6, TEMPERATURES)
    student, teacher = features(4, (2, 2), 6, requires_grad=True), features(4, (2, 2), 12)
    heads = list(objective.parameters())
    terms = objective(student, teacher)
    for name in ("local", "global"):
        grads = torch.autograd.grad(
            terms[name], [student.tokens, *heads], allow_unused=True, retain_graph=True
        )
        assert grads[0] is None
        assert all(grad is not None for grad in grads[1:])
    for name in ("feature", "token"):
        grads = torch.autograd.grad(
            terms[name], [student.tokens, *heads], allow_unused=True, retain_graph=True
        )
        assert grads[0] is not None
        assert all(grad is None for grad in grads[1:])


def test_cospress_feature_term_is_one_cosine_per_image() -> None:
    objective = CosPress(12, 6, TEMPERATURES)
    student, teacher = features(3, (2, 2), 6), features(3, (2, 2), 12)
    z = objective.compress(objective.norm(teacher.tokens))
    naive = [
        1 - (s.flatten() @ t.flatten() / (s.norm() * t.norm())).item()
        for s, t in zip(student.tokens, z, strict=True)
    ]
    found = objective(student, teacher)["feature"].item()
    assert found == pytest.approx(sum(naive) / 3, rel=1e-5)


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_cospress_resamples_the_teachers_grid_to_the_students(axis: str) -> None:
    """A 4 x 8 map that varies along one axis becomes a 2 x 4 map that varies along it."""
    objective = CosPress(12, 6, TEMPERATURES)
    large = torch.randn(3, 4, 1, 12) if axis == "rows" else torch.randn(3, 1, 8, 12)
    cells = large.expand(3, 4, 8, 12).reshape(3, 32, 12)
    tokens = torch.cat([torch.randn(3, 1, 12), cells], dim=1)
    z = objective.compress(objective.norm(tokens))
    by_cell = z[:, 1:].mT.reshape(3, 6, 4, 8)
    small = F.interpolate(by_cell, size=(2, 4), mode="bilinear", antialias=True)
    varies, constant = (2, 3) if axis == "rows" else (3, 2)
    assert small.std(dim=varies).min() > 1e-3
    assert small.std(dim=constant).max() < 1e-5
    student = features(3, (2, 4), 6)
    target = torch.cat([z[:, :1], small.flatten(2).mT], dim=1)
    naive = 1 - F.cosine_similarity(student.tokens.flatten(1), target.flatten(1), dim=1)
    found = objective(student, Features(tokens=tokens, grid=(4, 8)))["feature"]
    assert found.item() == pytest.approx(naive.mean().item(), rel=1e-5)


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
