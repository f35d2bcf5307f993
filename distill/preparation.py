"""The models of a run: a teacher, a student, and an objective between them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from distill.images.data import Data
from distill.images.pseudo_classes import pseudo_classes
from distill.images.synthetic import UNLABELLED
from distill.objectives import Objective, objective_from_recipe
from distill.recipe import Recipe
from distill.student_from_recipe import student_from_recipe
from distill.targets import Teacher, teacher_from_recipe
from isogon.errors import UsageError
from isogon.networks import Student
from isogon.progress import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class RunModels:
    """The models of a run, and the labels of its images."""

    teacher: Teacher
    student: Student
    student_licence: str
    objective: Objective
    labels: Int64[np.ndarray, " images"] | None  # classes or pseudo-classes, by image


def prepare_models(
    recipe: Recipe,
    data: Data,
    device: torch.device,
    progress: Progress,
    work: Path | None = None,
) -> RunModels:
    """Build the teacher, the student and the objective between them.

    Args:
        recipe: what to build.
        data: the images.
        device: where the teacher computes.
        progress: where to show progress.
        work: the folder of the run, which keeps what the teacher computes before training.

    Raises:
        UsageError: a model or its weights cannot be loaded, or are unsuitable for the
            objective.
    """
    teacher = teacher_from_recipe(recipe, data.imitated)
    teacher.prepare(data.fitted, device, progress, work)
    student, licence = student_from_recipe(recipe)
    labels = _labels(recipe, data, teacher, device, progress)
    objective = objective_from_recipe(
        recipe.objective,
        teacher.card.width,
        student.width,
        classes=0 if labels is None else int(labels.max()) + 1,
    )
    _require_cells(objective, student)
    _require_tokens(objective, teacher, data, device)
    why_untrained = objective.why_untrained(student, recipe.student.name)
    if why_untrained is not None:
        raise UsageError(why_untrained)
    if recipe.student.space == "teacher" and objective.to_teacher() is None:
        raise UsageError(
            'With `space = "teacher"` an objective must train a linear map to the '
            "teacher's space, and none of this recipe's does. Add `[[objective]]` "
            '`name = "cosine"`.'
        )
    return RunModels(
        teacher=teacher,
        student=student,
        student_licence=licence,
        objective=objective,
        labels=labels,
    )


def _labels(
    recipe: Recipe, data: Data, teacher: Teacher, device: torch.device, progress: Progress
) -> Int64[np.ndarray, " images"] | None:
    """Return the images' classes, or clusters of the teacher's features."""
    if not recipe.data.pseudo_classes:
        return data.imitated.labels(np.arange(len(data.imitated)))
    training = data.split.bank
    pooled = teacher.pooled(training, device, progress)
    labels = np.full(len(data.imitated), UNLABELLED, np.int64)
    labels[training] = pseudo_classes(pooled, recipe.data.pseudo_classes, recipe.train.seed)
    return labels


def _require_tokens(
    objective: Objective, teacher: Teacher, data: Data, device: torch.device
) -> None:
    if not objective.needs_tokens:
        return
    (features,) = teacher.sample(data.split.bank[:1], device)
    if features.grid == (0, 0):
        raise UsageError(
            "An objective of this recipe compares tokens, and the teacher gives one "
            'vector per image. Take `features = "online"` or "tokens" in [teacher], or '
            "another objective."
        )


def _require_cells(objective: Objective, student: Student) -> None:
    if objective.needs_tokens and student.backbone.grid == (0, 0):
        raise UsageError(
            "An objective of this recipe compares tokens, and the student gives one "
            "vector per image. Let its network return tokens [b, n, d], class token "
            "first, or take another objective."
        )
