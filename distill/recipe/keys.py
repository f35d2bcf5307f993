"""What every key of a recipe means: as a page, and as comments in a recipe.

Both are made from the models that check a recipe. A test compares `recipes/keys.md`.
"""

import sys
import types
from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from distill.objectives import objective_class, objective_names
from distill.recipe.defaults import Default, completed
from distill.recipe.recipe import Recipe
from distill.recipe.writing import toml_text, value_text

_WIDTH = 92
_FILE_OPENING = """\
# Run it: isogon distill THIS_FILE
# A key that is left out has its default; recipes/keys.md has them all.

"""
_OPENING = """# Every key of a recipe

Made by `make keys` from the models that check a recipe. A key that is left out has its
default. A second default is for students that start from pretrained weights
(`pretrained = true` or a `checkpoint` in [student]).
`isogon distill --set SECTION.KEY=VALUE` sets any key of the tables in one bracket.
"""
_PLAIN = {"name"}  # keys outside of tables
_BRACKETS = {"unfamiliar": "[[unfamiliar]]"}
_WORDS = {str: "text", bool: "true or false", int: "whole number", float: "number"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def annotated(document: dict[str, Any], taken: Iterable[Default] = ()) -> str:
    """Return TOML that parses to `document`, with the meaning of each key above it.

    Args:
        document: as parsed from TOML.
        taken: the defaults that were filled in; each reason follows its value.
    """
    known = meanings()
    lines: list[str] = []
    section = ""
    for line in toml_text(document, taken).splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line:
            meaning = known.get((section, line.split(" = ")[0]), "")
            lines += [f"# {part}" for part in wrap(meaning, _WIDTH - 2)]
        lines.append(line)
    return _FILE_OPENING + "\n".join(lines) + "\n"


def keys_page() -> str:
    """Return the page, in Markdown."""
    lines = [_OPENING, "## At the top", "", *_table("", Recipe, only=_PLAIN)]
    for section, (model, heading) in _sections().items():
        lines += ["", f"## `{heading}`", "", _docstring(model), ""]
        lines += _table(section, model)
    lines += ["", "## `[[objective]]`", "", "One table for each loss; by default `isogon`."]
    for name in objective_names():
        model = objective_class(name).section
        lines += ["", f'### `name = "{name}"`', "", _docstring(model), ""]
        lines += _table("objective", model, leaving={"name"})
    return "\n".join(lines) + "\n"


def meanings() -> dict[tuple[str, str], str]:
    """Return what each key means, by its section ("" at the top) and its name."""
    models = {"": Recipe} | {name: model for name, (model, _) in _sections().items()}
    return {
        (section, key): " ".join((field.description or "").split())
        for section, model in models.items()
        for key, field in model.model_fields.items()
    }


def _pretrained_defaults() -> tuple[Default, ...]:
    """Return the defaults of the shortest recipe with a pretrained student."""
    document: dict[str, Any] = {
        "teacher": {"name": "any"},
        "student": {"name": "any", "pretrained": True},
        "data": {"images": "any"},
    }
    return completed(document)[1]


def _sections() -> dict[str, tuple[type[BaseModel], str]]:
    """Return the model and the heading of every table except the objectives."""
    found = {}
    for name, field in Recipe.model_fields.items():
        model = _model_in(field.annotation)
        if model is not None and name != "objective":
            found[name] = (model, _BRACKETS.get(name, f"[{name}]"))
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first model inside a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in found if model is not None), None)


def _docstring(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _table(
    section: str,
    model: type[BaseModel],
    *,
    only: set[str] | None = None,
    leaving: set[str] | None = None,
) -> Iterator[str]:
    pretrained = {(one.section, one.key): one.value for one in _pretrained_defaults()}
    yield "| key | values | default | pretrained | meaning |"
    yield "|---|---|---|---|---|"
    for key, field in model.model_fields.items():
        if (only is not None and key not in only) or key in (leaving or ()):
            continue
        other = pretrained.get((section, key), PydanticUndefined)
        cells = (
            f"`{key}`",
            _values(field),
            _default(field.get_default(call_default_factory=True)),
            "" if other is PydanticUndefined else _default(other),
            " ".join((field.description or "").split()),
        )
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _values(field: FieldInfo) -> str:
    """Return the allowed values of a key, with bounds."""
    bounds = [
        f"{sign} {getattr(one, name):g}"
        for one in field.metadata
        for name, sign in _BOUNDS.items()
        if getattr(one, name, None) is not None
    ]
    known = [f"`{value_text(one)}`" for one in field.examples or ()]
    return ", ".join([*(known or [_type(field.annotation)]), *bounds])


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, types.UnionType):
        parts = [_type(one) for one in arguments if one is not type(None)]
        return ", or ".join(dict.fromkeys(parts))
    if origin is Literal:
        return ", ".join(f"`{value_text(one)}`" for one in arguments)
    if origin is tuple:
        inner = _type(arguments[0])
        several = arguments[-1] is Ellipsis
        return f"list of {inner}s" if several else f"{len(arguments)} {inner}s in a list"
    return _WORDS[annotation]


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "needed"
    return "" if value is None else f"`{value_text(value)}`"


if __name__ == "__main__":
    sys.stdout.write(keys_page())
