import pytest
import torch
import torch.nn.functional as F

from distill.objectives.rkd import Rkd
from isogon.networks import Features


def losses(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(terms.values())).sum()


def turned(width: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(width, width).double()).Q


def at(pooled: torch.Tensor) -> Features:
    """Features whose class token, and only cell, is this vector."""
    return Features(tokens=torch.stack([pooled, pooled], dim=1), grid=(1, 1))


def test_rkd_equals_a_naive_loop() -> None:
    student, teacher = torch.randn(5, 3).double(), torch.randn(5, 4).double()

    def distances(x: torch.Tensor) -> torch.Tensor:
        full = torch.stack([torch.stack([(a - b).norm() for b in x]) for a in x])
        return full / full[~torch.eye(5, dtype=torch.bool)].mean()

    def angle(x: torch.Tensor, i: int, j: int, k: int) -> float:
        a, b = x[i] - x[j], x[k] - x[j]
        norms = a.norm() * b.norm()
        return (a @ b / norms).item() if norms > 0 else 0.0

    triples = [(i, j, k) for i in range(5) for j in range(5) for k in range(5)]
    ours, theirs = (
        torch.tensor([angle(x, *triple) for triple in triples]) for x in (student, teacher)
    )
    terms = Rkd(distance_weight=1.0, angle_weight=1.0)(at(student), at(teacher))
    expected = F.smooth_l1_loss(distances(student), distances(teacher)).item()
    assert terms["distance"].item() == pytest.approx(expected)
    assert terms["angle"].item() == pytest.approx(
        F.smooth_l1_loss(ours, theirs).item(), rel=1e-5
    )


def test_rkd_is_blind_to_rotation_translation_and_scale_and_to_duplicates() -> None:
    teacher = torch.randn(6, 4).double()
    objective = Rkd(distance_weight=1.0, angle_weight=2.0)
    same = objective(at(3 * teacher @ turned(4) + 5), at(teacher))
    assert losses(same).item() == pytest.approx(0, abs=1e-10)
    twice = torch.cat([teacher, teacher]).requires_grad_()
    losses(objective(at(twice), at(torch.randn(12, 3).double()))).backward()
    assert twice.grad is not None
    assert torch.isfinite(twice.grad).all()
