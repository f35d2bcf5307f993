import pytest
import torch

from backbones import Features
from distill import recipe_from_document
from distill.objectives import Rkd, objective_from_recipe


def features(batch: int, grid: tuple[int, int], width: int, **options: object) -> Features:
    tokens = torch.randn(batch, 1 + grid[0] * grid[1], width, **options)
    return Features(tokens=tokens, grid=grid)


def test_several_objectives_are_weighted_and_named() -> None:
    sections = recipe_from_document(
        {
            "teacher": {"name": "test_vit"},
            "student": {"name": "test_vit"},
            "data": {"images": "x"},
            "objective": [{"name": "rkd", "weight": 3.0}, {"name": "vkd"}],
        },
        where="here",
    ).objective
    objective = objective_from_recipe(sections, 12, 6)
    student, teacher = features(4, (2, 2), 6), features(4, (2, 2), 12)
    terms = objective(student, teacher)
    alone = Rkd(distance_weight=1.0, angle_weight=2.0)(student, teacher)
    assert set(terms) == {"rkd.distance", "rkd.angle", "vkd.vkd"}
    assert terms["rkd.angle"].item() == pytest.approx(3 * alone["angle"].item())
    undecayed = objective.undecayed()
    assert undecayed == {name for name, _ in objective.named_parameters()}
