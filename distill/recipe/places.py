"""The recipe as a bundle ships it, and as it is read from there."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from distill.recipe.reading import recipe_from_document
from distill.recipe.recipe import Recipe
from isogon.bundle.places import found_place, portable_place


def portable(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with its absolute paths as seen from the bundle's `folder`."""
    return _with_places(recipe, partial(portable_place, folder=folder))


def here(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe of a bundle in `folder`, its paths for use from the current one."""
    return _with_places(recipe, partial(found_place, folder=folder))


def _with_places(recipe: Recipe, place: Callable[[str], str]) -> Recipe:
    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [changed(one) for one in value]
        return place(value) if isinstance(value, str) else value

    return recipe_from_document(changed(recipe.model_dump()), where="the recipe")
