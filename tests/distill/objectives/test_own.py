from pathlib import Path

import pytest
import torch

from distill import Recipe, recipe_from_document
from distill.objectives import objective_from_recipe
from isogon.errors import UsageError
from isogon.networks import Features

LOSSES = """
from distill.objectives import Objective, ObjectiveSection


class LengthSection(ObjectiveSection):
    power: float = 1.0


class Length(Objective):
    section = LengthSection
    needs_tokens = True

    def __init__(self, power):
        super().__init__()
        self.power = power

    @classmethod
    def from_section(cls, section, sizes):
        return cls(section.power)

    def forward(self, student, teacher, labels=None):
        return {"length": student.pooled.norm(dim=1).pow(self.power).mean()}


number = 3
"""


def recipe(**table: object) -> Recipe:
    return recipe_from_document(
        {
            "teacher": {"name": "test_vit"},
            "student": {"name": "test_vit", "pretrained": True},
            "data": {"images": "x"},
            "objective": [{"name": "rkd"}, table],
        },
        where="my.toml",
    )


@pytest.fixture
def losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_losses.py").write_text(LOSSES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("losses")
def test_an_objective_of_ones_own_is_found_by_its_import_path() -> None:
    found = recipe(name="my_losses:Length", power=2.0, weight=0.5)
    assert found.teacher.features == "online"  # it needs tokens
    objective = objective_from_recipe(found.objective, 4, 2)
    student = Features(tokens=torch.randn(3, 5, 2), grid=(2, 2))
    teacher = Features(tokens=torch.randn(3, 5, 4), grid=(2, 2))
    expected = 0.5 * student.pooled.square().sum(dim=1).mean()
    assert objective(student, teacher)["Length.length"] == pytest.approx(expected.item())


@pytest.mark.usefixtures("losses")
@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"name": "my_losses:Lenght"}, r"a subclass 'Lenght' of .* found nothing"),
        ({"name": "my_losses:number"}, r"\[\[objective\]\]: expected a subclass.*found 3"),
        ({"name": "no_losses:Length"}, r"no module 'no_losses' for the objective"),
        (
            {"name": "my_losses:Length", "powr": 2},
            r"my_losses:Length\]: unknown key `powr`; did you mean `power`",
        ),
        ({"weight": 2}, "`name` is missing"),
    ],
)
def test_what_is_not_an_objective_is_explained(table: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        recipe(**table)
