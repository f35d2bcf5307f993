"""From the recipe's `[[objective]]` tables to the loss of a run."""

from collections.abc import Sequence
from typing import assert_never

from distill.objectives.cosine import Cosine
from distill.objectives.cospress import CosPress
from distill.objectives.coss import Coss
from distill.objectives.isogon import Isogon
from distill.objectives.kd import Kd
from distill.objectives.nd import Nd
from distill.objectives.objective import Objective
from distill.objectives.proteus import Proteus
from distill.objectives.queue import Queue
from distill.objectives.rkd import Rkd
from distill.objectives.vkd import Vkd
from distill.objectives.weighted import Weighted
from distill.recipe.objectives import (
    CosineSection,
    CosPressSection,
    CossSection,
    IsogonSection,
    KdSection,
    NdSection,
    ObjectiveSection,
    ProteusSection,
    QueueSection,
    RkdSection,
    VkdSection,
)
from isogon.errors import UsageError


def objective_from_recipe(
    sections: Sequence[ObjectiveSection],
    teacher_width: int,
    student_width: int,
    classes: int = 0,
) -> Objective:
    """Return the weighted sum that the recipe asks for.

    Args:
        sections: the recipe's `[[objective]]` tables.
        teacher_width: of the teacher's tokens.
        student_width: of the student's.
        classes: how many classes, or pseudo-classes, the training images have.

    Raises:
        UsageError: an objective needs classes and there are fewer than two.
    """
    return Weighted(
        {
            section.name: (
                section.weight,
                _built(section, teacher_width, student_width, classes),
            )
            for section in sections
        }
    )


def _built(
    section: ObjectiveSection, teacher_width: int, student_width: int, classes: int
) -> Objective:
    match section:
        case IsogonSection():
            return Isogon(teacher_width, student_width, pairs_weight=section.pairs_weight)
        case CosPressSection():
            return _cospress(section, teacher_width, student_width)
        case VkdSection():
            return Vkd(teacher_width, student_width, section.normalisation)
        case CossSection():
            return Coss(
                teacher_width,
                student_width,
                weight_space=section.weight_space,
                teacher_temperature=section.teacher_temperature,
                student_temperature=section.student_temperature,
            )
        case RkdSection():
            return Rkd(
                distance_weight=section.distance_weight, angle_weight=section.angle_weight
            )
        case ProteusSection():
            return Proteus(teacher_width, student_width)
        case QueueSection():
            return Queue(
                teacher_width,
                student_width,
                size=section.size,
                temperature=section.temperature,
                cells_weight=section.cells_weight,
                cells_temperature=section.cells_temperature,
            )
        case NdSection():
            _require_classes(section, classes)
            return Nd(teacher_width, student_width, classes)
        case KdSection():
            _require_classes(section, classes)
            return Kd(
                teacher_width,
                student_width,
                classes,
                temperature=section.temperature,
                kd_weight=section.kd_weight,
                warmup_epochs=section.warmup_epochs,
            )
        case CosineSection():
            return Cosine(teacher_width, student_width)
        case _:
            assert_never(section)


def _require_classes(section: NdSection | KdSection, classes: int) -> None:
    if classes < 2:
        raise UsageError(
            f'The objective "{section.name}" learns from classes and needs at least 2, but '
            f"the training images have {classes}. Put the images into one folder per "
            f"class, or set `[data] pseudo_classes = 100`."
        )


def _cospress(section: CosPressSection, teacher_width: int, student_width: int) -> CosPress:
    return CosPress(
        teacher_width,
        student_width,
        section.temperatures,
        pca_start=section.init == "pca",
    )
