import pytest
import torch

from backbones import Features
from distill.objectives import Proteus


def features(batch: int, grid: tuple[int, int], width: int, **options: object) -> Features:
    tokens = torch.randn(batch, 1 + grid[0] * grid[1], width, **options)
    return Features(tokens=tokens, grid=grid)


def test_proteus_is_the_mean_squared_error_of_its_heads() -> None:
    objective = Proteus(12, 6)
    student, teacher = features(3, (2, 2), 6), features(3, (4, 4), 12)
    terms = objective(student, teacher)
    token = ((objective.token(student.pooled) - teacher.pooled) ** 2).mean()
    every = (
        (objective.feature(student.tokens) - teacher.on_grid((2, 2)).tokens) ** 2
    ).mean()
    assert terms["token"].item() == pytest.approx(token.item())
    assert terms["feature"].item() == pytest.approx(every.item())
