"""Defaults of a recipe that depend on what the student starts from, with reasons.

A pretrained student already has most of the features that it needs. It is fitted to the
teacher in closed form and then tuned with small steps. One from scratch trains longer.
All values here were chosen on validation images (`benchmarks/settings.py`). A key in the
recipe overrides its default.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from isogon.errors import UsageError

# The keys that say how a teacher's features are computed.
_OF_STORES = ("features", "views")


@dataclass(frozen=True, kw_only=True, slots=True)
class Default:
    """A default for one key of a recipe, with its reason."""

    section: str
    key: str
    value: Any
    reason: str


# For students that start from pretrained weights.
PRETRAINED = (
    Default(
        section="data",
        key="scale",
        value=(0.5, 1.0),
        reason="crops near the whole image, which the service uses",
    ),
    Default(
        section="data",
        key="plain",
        value="by-size",
        reason="views cropped as in the service keep most of the teacher's neighbours",
    ),
    Default(
        section="train",
        key="steps",
        value=1200,
        reason="more steps gain little on 14,000 images",
    ),
    Default(
        section="train",
        key="epochs",
        value=80,
        reason="a few hundred images are overfitted after this",
    ),
    Default(
        section="train",
        key="batch_size",
        value=64,
        reason="more steps for the same images and memory",
    ),
    Default(
        section="train",
        key="learning_rate",
        value=1e-3,
        reason="a lower rate keeps fewer of the teacher's neighbours",
    ),
    Default(
        section="train",
        key="final_learning_rate",
        value=1e-5,
        reason="the last steps average the earlier ones",
    ),
    Default(
        section="train",
        key="layer_rate",
        value=0.3,
        reason="the closed form has set the layer already",
    ),
    Default(
        section="train",
        key="layer_decay",
        value=0.8,
        reason="early blocks matter for OOD detection, so they change least",
    ),
    Default(
        section="train",
        key="warmup_share",
        value=0.05,
        reason="AdamW's first updates are noisy",
    ),
    Default(
        section="train",
        key="batch_statistics",
        value="frozen",
        reason="batch statistics of one kind of image damage the pretrained features",
    ),
)


def completed(document: dict[str, Any]) -> tuple[dict[str, Any], tuple[Default, ...]]:
    """Return a recipe's document with its defaults filled in, and these defaults.

    Args:
        document: as parsed from TOML; values of wrong types are left for validation.
    """
    found = copy.deepcopy(document)
    student = found.get("student")
    if not isinstance(student, dict):
        return found, ()
    if not (student.get("pretrained") or student.get("checkpoint")):
        return found, ()
    train = found.get("train")
    if isinstance(train, dict) and train.get("epochs") == 0 and not train.get("steps"):
        return found, ()  # only the closed form: no steps, so nothing to fill in
    taken = []
    # If `steps` or `epochs` is given, the other one has no default.
    given_length = (
        {"steps", "epochs"}
        if isinstance(train, dict) and {"steps", "epochs"} & train.keys()
        else set[str]()
    )
    for one in _features(found):
        for section in _networks(found):
            section[one.key] = one.value
        taken.append(one)
    for one in PRETRAINED:
        section = found.setdefault(one.section, {})
        if not isinstance(section, dict) or section.get(one.key) is not None:
            continue
        if one.key in given_length:
            continue
        if one.key == "warmup_share" and section.get("warmup_epochs") is not None:
            continue
        section[one.key] = one.value
        taken.append(one)
    return found, tuple(taken)


def _features(document: dict[str, Any]) -> tuple[Default, ...]:
    """Return the default of `features`, if a teacher is a network and no key is set."""
    networks, objectives = _networks(document), document.get("objective") or ()
    stated = any(one.get(key) is not None for one in networks for key in _OF_STORES)
    if not networks or stated or _needs_tokens(objectives):
        return ()
    once = "the teacher runs once on each view, not once per epoch"
    return (Default(section="teacher", key="features", value="embedding", reason=once),)


def _needs_tokens(objectives: Iterable[Any]) -> bool:
    """Return whether one of these objectives needs the teacher's cells (patch tokens)."""
    from distill.objectives import objective_class  # loads torch

    for table in objectives:
        name = table.get("name") if isinstance(table, dict) else None
        try:
            if isinstance(name, str) and objective_class(name).needs_tokens:
                return True
        except UsageError:
            continue  # reported when the table is checked
    return False


def _networks(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tables of teachers that are networks."""
    teacher = document.get("teacher")
    tables = teacher if isinstance(teacher, list | tuple) else [teacher]
    return [one for one in tables if isinstance(one, dict) and one.get("path") is None]
