"""Distil: teacher and images become a bundle with weights, detector and evaluation.

Only recipes are imported here, which is quick. `distill.distillation` and
`distill.images.sample_images` load torch, timm and scikit-learn, which takes seconds.
"""

from distill.choosing import (
    Chosen as Chosen,
    Wanted as Wanted,
    chosen_from as chosen_from,
    chosen_recipe as chosen_recipe,
    name_of as name_of,
)
from distill.quickstart import (
    digits_recipe as digits_recipe,
    example_images as example_images,
    quickstart_recipe as quickstart_recipe,
)
from distill.recipe import (
    Recipe as Recipe,
    document_from_toml as document_from_toml,
    recipe_from_document as recipe_from_document,
    recipe_from_toml as recipe_from_toml,
    toml_text as toml_text,
)
