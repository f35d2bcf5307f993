"""Find objectives by name, and make the loss of a recipe.

An objective's name is the name of its module in this package, or your own import path.
"""

import difflib
import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic_core import PydanticCustomError

from distill.objectives.objective import Objective, Sizes
from distill.objectives.weighted import Weighted
from distill.recipe.sections import ObjectiveSection
from isogon.bundle import is_import_path
from isogon.errors import UsageError
from isogon.networks import module_of_path

_PACKAGE = "distill.objectives"
_HERE = Path(__file__).parent


def objective_from_recipe(
    sections: Sequence[ObjectiveSection],
    teacher_width: int,
    student_width: int,
    classes: int = 0,
) -> Objective:
    """Return the weighted sum of the recipe's objectives.

    Args:
        sections: the recipe's `[[objective]]` tables.
        teacher_width: of the teacher's tokens.
        student_width: of the student's.
        classes: the number of classes, or pseudo-classes, of the training images.

    Raises:
        UsageError: an objective needs classes and there are fewer than two.
    """
    sizes = Sizes(teacher_width=teacher_width, student_width=student_width, classes=classes)
    return Weighted(
        {
            section.label: (
                section.weight,
                objective_class(section.name).from_section(section, sizes),
            )
            for section in sections
        }
    )


def section_from_table(table: Any) -> ObjectiveSection:
    """Return a checked `[[objective]]` table.

    Raises:
        ValueError: the name is missing or unknown, or another key is wrong.
    """
    name = table.get("name") if isinstance(table, dict) else None
    if not isinstance(name, str):
        raise PydanticCustomError("objective", "`name` is missing; add it.")
    try:
        found = objective_class(name)
    except UsageError as error:
        raise PydanticCustomError("objective", "{said}", {"said": str(error)}) from error
    return found.section.model_validate(table)


def objective_class(name: str) -> type[Objective]:
    """Return the class of an objective, by its name or import path.

    Raises:
        UsageError: the name is unknown; the message continues "[[objective]]: ".
    """
    if is_import_path(name):
        return _own(name)
    found = None
    if (_HERE / f"{name}.py").is_file():
        found = _objective_in(import_module(f"{_PACKAGE}.{name}"))
    if found is None:
        known = objective_names()
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}."
        raise UsageError(f"unknown name `{name}`; {hint}")
    return found


@cache
def objective_names() -> tuple[str, ...]:
    """Return the names of all objectives of this package, in alphabetical order."""
    modules = (found.name for found in pkgutil.iter_modules([str(_HERE)]))
    return tuple(
        name
        for name in sorted(modules)
        if _objective_in(import_module(f"{_PACKAGE}.{name}")) is not None
    )


def _objective_in(module: ModuleType) -> type[Objective] | None:
    """Return the class with its own `section` that the module defines, if any."""
    for found in vars(module).values():
        if isinstance(found, type) and issubclass(found, Objective):
            if found.__module__ == module.__name__ and "section" in vars(found):
                return None if found is Objective else found
    return None


def _own(name: str) -> type[Objective]:
    module_name, _, attribute = name.partition(":")
    module = module_of_path(name, "objective")
    found = getattr(module, attribute, None)
    if not (isinstance(found, type) and issubclass(found, Objective)):
        kind = "nothing of this name" if found is None else repr(found)
        raise UsageError(
            f"expected a subclass {attribute!r} of distill.objectives.Objective in "
            f"{module_name} ({module.__file__}), found {kind}."
        )
    return found
