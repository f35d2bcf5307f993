import math

import pytest
import torch
import torch.nn.functional as F

from distill.objectives.sne import sne_divergence

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
