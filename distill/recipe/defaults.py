"""What a recipe leaves out, and why: defaults that depend on what the student starts from.

A pretrained student already knows most of what the teacher will tell it. It is fitted to
the teacher in closed form and then tuned gently; one from scratch needs the long way.
Every value here was chosen on validation images (`benchmarks/settings.py`), and every one
is overridden by writing the key.
"""

from dataclasses import dataclass
from typing import Any

# Objectives that learn nothing without the teacher's cells.
_OF_TOKENS = {"proteus"}


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
        section="train",
        key="steps",
        value=1200,
        reason="14,000 images are flat by then",
    ),
    Default(
        section="train",
        key="epochs",
        value=80,
        reason="a few hundred images are learnt by heart after that",
    ),
    Default(
        section="train",
        key="batch_size",
        value=64,
        reason="more steps for the same images and memory",
    ),
    Default(section="train", key="learning_rate", value=1e-3, reason="tuned"),
    Default(section="train", key="final_learning_rate", value=1e-5, reason="tuned"),
    Default(
        section="train",
        key="layer_rate",
        value=0.3,
        reason="the closed form has set the layer already",
    ),
    Default(section="train", key="warmup_share", value=0.05, reason="tuned"),
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
    taken = []
    train = found.get("train")
    # Whoever says how long a run is has said it all.
    given_length = (
        {"steps", "epochs"}
        if isinstance(train, dict) and {"steps", "epochs"} & train.keys()
        else set[str]()
    )
    for one in (*PRETRAINED, *_features(found)):
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
    """Return how the teacher's features are had, where it is a network."""
    teacher, objectives = document.get("teacher"), document.get("objective") or ()
    if not isinstance(teacher, dict) or teacher.get("path") is not None:
        return ()
    names = {one.get("name") for one in objectives if isinstance(one, dict)}
    if teacher.get("features") is not None or names & _OF_TOKENS:
        return ()
    once = "the teacher sees each view once, not once per epoch"
    return (
        Default(section="teacher", key="features", value="embedding", reason=once),
        Default(section="teacher", key="views", value=2, reason="of each image"),
    )


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value
