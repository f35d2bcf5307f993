"""The recipes of the repository are valid, explained and listed, and their models exist."""

import re
from pathlib import Path

import pytest
import timm

from distill import recipe_from_toml
from distill.weights import PACKAGE, PACKAGED

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.toml"))

every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


@every_recipe
def test_every_recipe_in_the_repository_is_valid_and_explains_itself(path: Path) -> None:
    assert recipe_from_toml(path).name == path.stem
    opening = path.read_text().split("\n\n[")[0]
    for told in (f"isogon distill recipes/{path.name}", "Hardware", "Expect"):
        assert told in opening


@every_recipe
def test_every_recipe_names_models_and_weights_that_exist(path: Path) -> None:
    recipe = recipe_from_toml(path)
    for section, loads in (
        (recipe.teacher, True),
        (recipe.student, recipe.student.pretrained),
    ):
        name, checkpoint = section.name, section.checkpoint
        assert timm.is_model(name or ""), name
        if checkpoint is None:
            # A tag that timm does not know passes for a model, but has no weights.
            assert timm.models.is_model_pretrained(name) or not loads, name
        elif checkpoint.startswith(PACKAGE):
            assert PACKAGED[checkpoint.removeprefix(PACKAGE)] == name


def test_the_table_lists_every_recipe_once() -> None:
    table = (FOLDER / "README.md").read_text()
    listed = re.findall(r"^\| \[[\w-]+\]\(([\w.-]+)\)", table, re.MULTILINE)
    assert sorted(listed) == [path.name for path in RECIPES]
