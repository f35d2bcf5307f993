import pytest
import torch
import torch.nn.functional as F

from distill.objectives.coss import Coss
from isogon.networks import Features


def at(pooled: torch.Tensor) -> Features:
    """Features whose class token, and only cell, is this vector."""
    return Features(tokens=torch.stack([pooled, pooled], dim=1), grid=(1, 1))


def test_coss_equals_a_naive_loop_over_rows_and_columns() -> None:
    student, teacher = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    objective = Coss(
        7, 7, weight_space=0.5, teacher_temperature=0.5, student_temperature=0.2
    )
    rows = [-F.cosine_similarity(student[i], teacher[i], dim=0) for i in range(5)]
    columns = [-F.cosine_similarity(student[:, j], teacher[:, j], dim=0) for j in range(7)]
    terms = objective(at(student), at(teacher))
    assert terms["cosine"].item() == pytest.approx(10 * torch.stack(rows).mean().item())
    assert terms["space"].item() == pytest.approx(5 * torch.stack(columns).mean().item())


def test_coss_gives_a_student_of_another_width_a_head() -> None:
    options = {"weight_space": 1.0, "teacher_temperature": 0.07, "student_temperature": 0.1}
    assert not list(Coss(7, 7, **options).parameters())
    assert Coss(12, 7, **options).head(torch.randn(2, 7)).shape == (2, 12)
