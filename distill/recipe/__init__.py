"""The recipe: every choice of a distillation, in one TOML file. Free of torch."""

from distill.recipe.objectives import (
    CossSection as CossSection,
    ObjectiveSection as ObjectiveSection,
)
from distill.recipe.reading import (
    document_from_toml as document_from_toml,
    recipe_from_document as recipe_from_document,
    recipe_from_toml as recipe_from_toml,
)
from distill.recipe.recipe import (
    DataSection as DataSection,
    Recipe as Recipe,
    TrainSection as TrainSection,
    UnfamiliarSection as UnfamiliarSection,
)
from distill.recipe.teacher import TeacherSection as TeacherSection
from distill.recipe.written import written as written
