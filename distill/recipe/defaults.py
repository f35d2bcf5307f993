"""What a recipe leaves out, and why: defaults that depend on what the student starts from.

A pretrained student already has most of the features that it needs. It is fitted to the
teacher in closed form and then tuned with small steps; one from scratch trains longer.
Every value here was chosen on validation images (`benchmarks/settings.py`), and every one
is overridden by writing the key.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from isogon.errors import UsageError

# The keys that say how a teacher's features are computed.
_OF_STORES = ("features", "views")


@dataclass(frozen=True, kw_only=True, slots=True)
class Default:
    """One key of a recipe that was left out."""

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
        reason="crops near the whole image, as the service sees it",
    ),
    Default(
        section="data",
        key="plain",
        value="by-size",
        reason="views as the service sees the image keep most of the teacher's neighbours",
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
        reason="a few hundred images are overfitted after that",
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
        reason="less keeps fewer of the teacher's neighbours",
    ),
    Default(
        section="train",
        key="final_learning_rate",
        value=1e-5,
        reason="the last steps average what the others found",
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
        reason="early blocks matter for telling unfamiliar images; they change least",
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
        reason="statistics of one kind of image destroy what the network knows",
    ),
)


def completed(document: dict[str, Any]) -> tuple[dict[str, Any], tuple[Default, ...]]:
    """Return a recipe's document with what it leaves out, and what that was.

    Args:
        document: as parsed from TOML; other types than tables are left for validation.
    """
    found = {key: _copied(value) for key, value in document.items()}
    student = found.get("student")
    if not isinstance(student, dict):
        return found, ()
    if not (student.get("pretrained") or student.get("checkpoint")):
        return found, ()
    train = found.get("train")
    if isinstance(train, dict) and train.get("epochs") == 0 and not train.get("steps"):
        return found, ()  # the closed form alone: no step, no view, nothing to fill in
    taken = []
    # `steps` or `epochs` alone decides the length: the default of the other is left out.
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
    """Return the default for `features`, if there is a network as teacher and no key."""
    networks, objectives = _networks(document), document.get("objective") or ()
    stated = any(one.get(key) is not None for one in networks for key in _OF_STORES)
    if not networks or stated or _needs_tokens(objectives):
        return ()
    once = "the teacher sees each view once, not once per epoch"
    return (Default(section="teacher", key="features", value="embedding", reason=once),)


def _needs_tokens(objectives: Iterable[Any]) -> bool:
    """Return whether one of these tables learns nothing without the teacher's cells."""
    from distill.objectives import objective_class  # loads torch

    for table in objectives:
        name = table.get("name") if isinstance(table, dict) else None
        try:
            if isinstance(name, str) and objective_class(name).needs_tokens:
                return True
        except UsageError:
            continue  # told when the table is checked
    return False


def _networks(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tables of teachers that are networks."""
    teacher = document.get("teacher")
    tables = teacher if isinstance(teacher, list | tuple) else [teacher]
    return [one for one in tables if isinstance(one, dict) and one.get("path") is None]


def _copied(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_copied(one) for one in value]
    return dict(value) if isinstance(value, dict) else value
