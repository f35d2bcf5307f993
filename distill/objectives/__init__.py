"""What a student is trained towards: one file per objective, behind one interface.

A file `NAME.py` with a subclass of `Objective` that has a `section` of its own is the
objective `NAME` of a recipe; nothing else needs to know of it.
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
