"""Read a recipe from its TOML file, and explain what is wrong with it."""

import difflib
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill.recipe.data_section import DataSection
from distill.recipe.recipe import Recipe, UnfamiliarSection
from distill.recipe.sections import ObjectiveSection, renamed_keys
from distill.recipe.teacher_section import TeacherSection
from isogon.errors import UsageError, option

# Keys of older recipes, and what to write instead.
_MOVED: dict[tuple[str, ...], str] = {
    ("data", "unfamiliar"): "write an [[unfamiliar]] table with `name` and `images`.",
}


def recipe_from_toml(path: Path) -> Recipe:
    """Read a recipe; relative paths in it are relative to the current folder.

    Raises:
        UsageError: the file is missing or not TOML, or a key or value is wrong. For an
            unknown key the message names the most similar known one.
    """
    return recipe_from_document(document_from_toml(path), where=str(path))


def document_from_toml(path: Path) -> dict[str, Any]:
    """Return the file's content, unchecked; see `recipe_from_toml`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no recipe at {path}. Start from one in `recipes/`."
        ) from error
    except IsADirectoryError as error:
        raise UsageError(
            f"{path} is a folder, not a recipe. If it holds images, write "
            f"{option('images', str(path))}."
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not TOML: {error}. See `recipes/` for examples."
        ) from error


def recipe_from_document(document: dict[str, Any], *, where: str) -> Recipe:
    """Check a parsed recipe; see `recipe_from_toml`."""
    try:
        # Checking objectives loads torch. All other tables are checked before.
        Recipe.model_validate(document | {"objective": (ObjectiveSection(name="isogon"),)})
        return Recipe.model_validate(document)
    except ValidationError as error:
        faults = error.errors()
        # Pydantic reports a list without its wrong tables as "too short", too: skip that.
        above = {
            fault["loc"][:depth] for fault in faults for depth in range(len(fault["loc"]))
        }
        lines = [
            _explain(_with_objective(dict(fault), document), where)
            for fault in faults
            if fault["type"] != "too_short" or fault["loc"] not in above
        ]
        raise UsageError("\n".join(lines)) from error


def renamed_in(document: dict[str, Any], *, where: str) -> tuple[str, ...]:
    """Return a note for each key of a recipe that has another name now."""
    from distill.objectives import objective_class  # loads torch

    found: list[tuple[str, dict[str, str]]] = []
    for table in _tables(document.get("teacher")):
        found.append(("teacher", renamed_keys(TeacherSection, table)))
    found.append(("data", renamed_keys(DataSection, document.get("data"))))
    for table in _tables(document.get("objective")):
        section = objective_class(table["name"]).section
        found.append(("objective", renamed_keys(section, table)))
    return tuple(
        f"{where} [{section}]: `{before}` is called `{now}` now; the old name is read too."
        for section, keys in found
        for before, now in keys.items()
    )


def _tables(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] if value else []


def _with_objective(fault: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Return the fault with the objective's name inserted into its location."""
    place = fault["loc"]
    if len(place) < 3 or place[0] != "objective":
        return fault
    name = document["objective"][place[1]]["name"]
    return fault | {"loc": (*place[:2], name, *place[2:])}


def _explain(fault: dict[str, Any], where: str) -> str:
    # A location is: section, number of the table in [[...]], name of an objective, key.
    place = [str(part) for part in fault["loc"]]
    if place[0:1] == ["teacher"]:
        place = [part for part in place if part not in ("one", "several")]
    message = fault["msg"].removeprefix("Value error, ")
    if not place:  # about several sections
        return f"{where}: {message}."
    inside = {"objective": 3, "unfamiliar": 2}.get(place[0], 1)
    if place[0] == "teacher" and len(place) > 1 and place[1].isdigit():
        inside = 2
    section, key = place[:inside], ".".join(place[inside:])
    if not key:
        section, key = [], ".".join(place)
    at = f"{where} [{' '.join(section)}]" if section else where
    if fault["type"] == "extra_forbidden":
        known = _keys(section)
        if (*section, key) in _MOVED:
            return f"{at}: `{key}` has moved; {_MOVED[*section, key]}"
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}."
        return f"{at}: unknown key `{key}`; {hint}"
    if fault["type"] == "objective":
        return f"{where} [[objective]]: {fault['msg']}"
    if fault["type"] == "missing":
        return f"{at}: `{key}` is missing; add it."
    if isinstance(fault["input"], dict) and fault["type"] == "value_error":
        return f"{at}: `{key}`: {message}."  # about several keys, which it names
    return f"{at}: `{key}`: {message}, got {fault['input']!r}."


def _keys(section: list[str]) -> list[str]:
    if not section:
        return list(Recipe.model_fields)
    if section[0] == "objective":
        from distill.objectives import objective_class  # loads torch

        return list(objective_class(section[-1]).section.model_fields)
    if section[0] == "unfamiliar":
        return list(UnfamiliarSection.model_fields)
    if section[0] == "teacher":
        return list(TeacherSection.model_fields)
    model = Recipe.model_fields[section[0]].annotation
    return list(model.model_fields) if model else []
