"""Objectives: the losses a student is trained with, one file each, behind one interface.

A file `NAME.py` with a subclass of `Objective` that has its own `section` is the objective
`NAME` of a recipe. It needs no other registration.
"""

from distill.objectives.objective import (
    Labels as Labels,
    Objective as Objective,
    Sizes as Sizes,
    StartOn as StartOn,
    Terms as Terms,
)
from distill.objectives.registry import (
    objective_class as objective_class,
    objective_from_recipe as objective_from_recipe,
    objective_names as objective_names,
)
from distill.objectives.weighted import Weighted as Weighted
from distill.recipe.sections import ObjectiveSection as ObjectiveSection
