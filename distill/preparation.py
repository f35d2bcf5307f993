"""The networks a run starts from: a teacher, a student, an objective between them."""

from dataclasses import dataclass

from torch import nn

from backbones import Backbone, Student, preprocessing_of, timm_model
from bundle import Preprocessing, StudentCard, TeacherCard
from distill.objectives import Objective, objective_from_recipe
from distill.recipe import Recipe
from distill.weights import pretrained


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """The networks of a run, each with what a bundle says of it."""

    teacher: Backbone
    teacher_card: TeacherCard
    student: Student
    student_card: StudentCard
    objective: Objective


def prepare_models(recipe: Recipe) -> Models:
    """Build the frozen teacher, the student and the objective between them.

    Raises:
        UsageError: a model or its weights are not to be had.
    """
    teacher, teacher_card = prepare_teacher(recipe)
    student, student_card = _student(recipe)
    objective = objective_from_recipe(recipe.objective, teacher.width, student.width)
    return Models(
        teacher=teacher,
        teacher_card=teacher_card,
        student=student,
        student_card=student_card,
        objective=objective,
    )


def preprocessing_for(recipe: Recipe, architecture: str) -> Preprocessing:
    """Return the recipe's crop and size with this architecture's normalisation."""
    return preprocessing_of(architecture, recipe.data.size, recipe.data.crop)


def prepare_teacher(recipe: Recipe) -> tuple[Backbone, TeacherCard]:
    """Build the frozen teacher alone.

    Raises:
        UsageError: the model or its weights are not to be had.
    """
    section = recipe.teacher
    assert section.name is not None
    source = pretrained(section.name, section.checkpoint, size=_size(recipe))
    teacher = Backbone(source.model, preprocessing_for(recipe, section.name))
    card = TeacherCard(
        architecture=section.name,
        weights=source.weights,
        licence=source.licence,
        width=teacher.width,
        parameters=_parameters(teacher),
    )
    return teacher.eval().requires_grad_(False), card


def _student(recipe: Recipe) -> tuple[Student, StudentCard]:
    section = recipe.student
    if section.pretrained or section.checkpoint:
        source = pretrained(section.name, section.checkpoint, size=_size(recipe))
        model, licence = source.model, source.licence
    else:
        model, licence = timm_model(section.name, size=_size(recipe)), "none given"
    preprocessing = preprocessing_for(recipe, section.name)
    student = Student.new(model, preprocessing, width=section.width)
    card = StudentCard(
        architecture=section.name,
        licence=licence,
        width=student.width,
        embedding_layer=student.embedding is not None,
        parameters=_parameters(student),
    )
    return student, card


def _size(recipe: Recipe) -> tuple[int, int]:
    return recipe.data.size, recipe.data.size


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
