"""A recipe as a file: with reasons, with what every key means, or as a bundle ships it."""

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


def written(document: dict[str, Any], taken: Iterable[Default] = ()) -> str:
    """Return TOML that reads back as `document`; None is left out.

    Args:
        document: as parsed from TOML.
        taken: what was filled in; each reason becomes a comment.
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


def _tables(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value]
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return list(value)
    return []


def _line(key: str, value: Any) -> str:
    return f"{key} = {value_text(value)}"


def value_text(value: Any) -> str:
    """Return a value as TOML has it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    # JSON's words for strings, numbers and truth are TOML's too, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


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
