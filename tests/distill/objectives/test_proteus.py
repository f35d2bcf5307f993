import pytest
import torch

from distill.objectives.proteus import Proteus
from isogon.networks import Features


def features(batch: int, grid: tuple[int, int], width: int, **options: object) -> Features:
    tokens = torch.randn(batch, 1 + grid[0] * grid[1], width, **options)
    return Features(tokens=tokens, grid=grid)


def test_proteus_is_the_mean_squared_error_of_its_heads() -> None:
    objective = Proteus(12, 6)
    student, teacher = features(3, (2, 2), 6), features(3, (4, 4), 12)
    terms = objective(student, teacher)
    target = teacher.on_grid((2, 2)).tokens
    token, feature = [], []
    for image in range(3):
        token.append(objective.token(student.tokens[image, 0]) - target[image, 0])
        feature.append(token[-1])  # the class token goes through its own head here too
        for cell in range(1, 5):
            reproduced = objective.feature(student.tokens[image, cell])
            feature.append(reproduced - target[image, cell])
    assert terms["token"].item() == pytest.approx((torch.stack(token) ** 2).mean().item())
    assert terms["feature"].item() == pytest.approx(
        (torch.stack(feature) ** 2).mean().item()
    )
