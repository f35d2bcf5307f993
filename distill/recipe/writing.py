"""Write a recipe as TOML, and adapt its paths to a bundle's folder and back."""

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from distill.recipe.defaults import Default
from distill.recipe.reading import recipe_from_document
from distill.recipe.recipe import Recipe
from isogon.bundle.names import found_place, portable_place

_ORDER = ("teacher", "student", "data", "unfamiliar", "train", "objective", "ood")


def toml_text(document: dict[str, Any], taken: Iterable[Default] = ()) -> str:
    """Return TOML that parses to `document`, without keys that are None.

    Args:
        document: as parsed from TOML.
        taken: the defaults that were filled in; each reason becomes a comment.
    """
    reasons = {(one.section, one.key): one.reason for one in taken}
    lines = [
        _line(key, value)
        for key, value in document.items()
        if value is not None and not _tables(value)
    ]
    known = [key for key in _ORDER if key in document]
    for section in (*known, *(key for key in document if key not in _ORDER)):
        for table in _tables(document[section]):
            several = isinstance(document[section], list | tuple)
            lines += ["", f"[[{section}]]" if several else f"[{section}]"]
            for key, value in table.items():
                if value is not None:
                    reason = reasons.get((section, key))
                    comment = "" if reason is None else f"  # {reason}"
                    lines.append(_line(key, value) + comment)
    return "\n".join(lines).strip() + "\n"


def value_text(value: Any) -> str:
    """Return a value in TOML's syntax."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    # JSON's strings, numbers and booleans are TOML's too, except for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def portable(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with absolute paths made relative to the bundle's `folder`."""
    return _with_places(recipe, partial(portable_place, folder=folder))


def placed_here(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe of a bundle in `folder` with paths that work from here."""
    return _with_places(recipe, partial(found_place, folder=folder))


def _tables(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value]
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return list(value)
    return []


def _line(key: str, value: Any) -> str:
    return f"{key} = {value_text(value)}"


def _with_places(recipe: Recipe, place: Callable[[str], str]) -> Recipe:
    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [changed(one) for one in value]
        return place(value) if isinstance(value, str) else value

    return recipe_from_document(changed(recipe.model_dump()), where="the recipe")
