import pytest
import torch
import torch.nn.functional as F

from distill.objectives.vkd import Vkd, vkd_loss
from isogon.networks import Features


def features(batch: int, grid: tuple[int, int], width: int, **options: object) -> Features:
    tokens = torch.randn(batch, 1 + grid[0] * grid[1], width, **options)
    return Features(tokens=tokens, grid=grid)


def losses(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize("widths", [(12, 6), (6, 12), (8, 8)])
def test_vkd_keeps_its_projection_orthonormal_under_weight_decay(
    widths: tuple[int, int],
) -> None:
    teacher_width, student_width = widths
    objective = Vkd(teacher_width, student_width, "layer_norm")
    # Decay on every 2-d parameter: what empties the released parametrisation.
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2, weight_decay=0.05)
    before = objective.projection.weight.detach().clone()
    for _ in range(20):
        terms = objective(
            features(9, (2, 2), student_width), features(9, (2, 2), teacher_width)
        )
        optimizer.zero_grad()
        losses(terms).backward()
        optimizer.step()
    q = objective.projection.weight.detach()
    small = q.T @ q if teacher_width >= student_width else q @ q.T
    assert torch.allclose(small, torch.eye(len(small)), atol=1e-5)
    assert not torch.allclose(q, before)


def test_vkd_normalisations_do_what_their_names_say() -> None:
    teacher = torch.randn(50, 6).double() * torch.arange(1, 7) + 3
    zero = torch.zeros(50, 6).double()
    eye = torch.eye(6).double()
    layer = (teacher - teacher.mean(1, keepdim=True)) / teacher.std(
        1, keepdim=True, unbiased=False
    )
    found = vkd_loss(zero, teacher, eye, "layer_norm")
    assert found.item() == pytest.approx(F.smooth_l1_loss(zero, layer).item(), rel=1e-4)
    standard = (teacher - teacher.mean(0)) / teacher.std(0, unbiased=False)
    assert vkd_loss(standard, teacher, eye, "standardise").item() == pytest.approx(
        0, abs=1e-8
    )
    centred = teacher - teacher.mean(0)
    covariance = centred.T @ centred / 50
    values, vectors = torch.linalg.eigh(covariance)
    zca = centred @ vectors @ torch.diag(values**-0.5) @ vectors.T
    assert vkd_loss(zca, teacher, eye, "whiten").item() == pytest.approx(0, abs=1e-12)
    few = torch.randn(4, 6).double()  # fewer images than channels
    assert torch.isfinite(vkd_loss(few, few, eye, "whiten"))
