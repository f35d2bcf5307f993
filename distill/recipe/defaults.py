"""Defaults of a recipe that depend on what the student starts from, with reasons.

A pretrained student already has most of the features that it needs. It is fitted to the
teacher in closed form and then tuned with small steps. One from scratch trains longer.
All values here were chosen on validation images (`benchmarks/settings.py`). A key in the
recipe overrides its default.
"""

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isogon.errors import UsageError

if TYPE_CHECKING:
    from distill.objectives import Objective

MOST_EPOCHS = 80  # of a pretrained student; --minutes are no longer than this either

# The keys that say how a teacher's features are computed.
_OF_STORES = ("features", "views")


@dataclass(frozen=True, kw_only=True, slots=True)
class Default:
    """A default for one key of a recipe, with its reason."""

    section: str
    key: str
    value: Any
    reason: str


# For students that start from pretrained weights, with training or without.
_SYNTHETIC = Default(
    section="data",
    key="synthetic",
    value="by-size",
    reason="imitated there too, the teacher's view of unfamiliar images is kept",
)

# For those among them that are trained.
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
        value=MOST_EPOCHS,
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
    taken = []
    data = found.setdefault("data", {})
    if isinstance(data, dict) and data.get("synthetic") is None and _may_add_images(found):
        data["synthetic"] = _SYNTHETIC.value
        taken.append(_SYNTHETIC)
    if isinstance(train, dict) and train.get("epochs") == 0 and not train.get("steps"):
        return found, tuple(taken)  # only the closed form: no steps
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
        section[one.key] = one.value
        taken.append(one)
    return found, tuple(taken)


def _features(document: dict[str, Any]) -> tuple[Default, ...]:
    """Return the default of `features`, if a teacher is a network and no key is set."""
    networks, objectives = _networks(document), document.get("objective")
    stated = any(one.get(key) is not None for one in networks for key in _OF_STORES)
    if not networks or stated or any(one.needs_tokens for one in _classes(objectives)):
        return ()
    once = "the teacher runs once on each view, not once per epoch"
    return (Default(section="teacher", key="features", value="embedding", reason=once),)


def _may_add_images(document: dict[str, Any]) -> bool:
    """Return whether there can be images without a class and of the teacher's own."""
    teacher, data = document.get("teacher"), document.get("data")
    several = len(teacher) if isinstance(teacher, list | tuple) else 1
    if len(_networks(document)) < several:
        return False
    if isinstance(data, dict) and data.get("pseudo_classes"):
        return False
    return not any(one.section.needs_labels for one in _classes(document.get("objective")))


def _classes(objectives: object) -> Iterator["type[Objective]"]:
    """Yield the classes of the [[objective]] tables."""
    tables = objectives if isinstance(objectives, list | tuple) else [objectives]
    for table in tables:
        name = table.get("name") if isinstance(table, dict) else None
        if isinstance(name, str):
            from distill.objectives import objective_class  # loads torch

            with suppress(UsageError):  # reported when the table is checked
                yield objective_class(name)


def _networks(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tables of teachers that are networks."""
    teacher = document.get("teacher")
    tables = teacher if isinstance(teacher, list | tuple) else [teacher]
    return [one for one in tables if isinstance(one, dict) and one.get("path") is None]
