"""From the recipe's `[[objective]]` tables to the loss of a run."""

from collections.abc import Sequence
from typing import assert_never

from distill.objectives.cosine import Cosine
from distill.objectives.cospress import CosPress
from distill.objectives.coss import Coss
from distill.objectives.isogon import Isogon
from distill.objectives.objective import Objective
from distill.objectives.proteus import Proteus
from distill.objectives.rkd import Rkd
from distill.objectives.vkd import Vkd
from distill.objectives.weighted import Weighted
from distill.recipe_objectives import (
    CosineSection,
    CosPressSection,
    CossSection,
    IsogonSection,
    ObjectiveSection,
    ProteusSection,
    RkdSection,
    VkdSection,
)


def objective_from_recipe(
    sections: Sequence[ObjectiveSection], teacher_width: int, student_width: int
) -> Objective:
    """Return the weighted sum that the recipe asks for."""
    return Weighted(
        {
            section.name: (section.weight, _built(section, teacher_width, student_width))
            for section in sections
        }
    )


def _built(section: ObjectiveSection, teacher_width: int, student_width: int) -> Objective:
    match section:
        case IsogonSection():
            return Isogon(
                _cospress(section, teacher_width, student_width),
                angle_weight=section.angle_weight,
                pairs_weight=section.pairs_weight,
            )
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
        case CosineSection():
            return Cosine(teacher_width, student_width)
        case _:
            assert_never(section)


def _cospress(
    section: CosPressSection | IsogonSection, teacher_width: int, student_width: int
) -> CosPress:
    return CosPress(
        teacher_width,
        student_width,
        section.temperatures,
        pca_start=section.init == "pca",
    )
