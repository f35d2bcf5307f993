"""The recipe: every choice of a distillation, in one TOML file.

Importing it loads no torch; checking a recipe does, by its objectives.
"""

from distill.recipe.data_section import DataSection as DataSection
from distill.recipe.reading import (
    document_from_toml as document_from_toml,
    recipe_from_document as recipe_from_document,
    recipe_from_toml as recipe_from_toml,
    renamed_in as renamed_in,
)
from distill.recipe.recipe import (
    Recipe as Recipe,
    TrainSection as TrainSection,
    UnfamiliarSection as UnfamiliarSection,
)
from distill.recipe.sections import ObjectiveSection as ObjectiveSection
from distill.recipe.teacher_section import TeacherSection as TeacherSection
from distill.recipe.writing import toml_text as toml_text
