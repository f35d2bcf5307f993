"""Distil: teacher and images become a bundle with weights, detector and evaluation."""

from distill.distillation import distill as distill, work_folder as work_folder
from distill.evaluation import Evaluation as Evaluation
from distill.quickstart import (
    TEACHER as TEACHER,
    example_images as example_images,
    quickstart_recipe as quickstart_recipe,
)
from distill.recipe import (
    Recipe as Recipe,
    recipe_from_document as recipe_from_document,
    recipe_from_toml as recipe_from_toml,
)
from distill.samples import sample_images as sample_images
