"""What a student is trained towards; one objective per file, behind one interface."""

from distill.objectives.cosine import Cosine as Cosine
from distill.objectives.cospress import CosPress as CosPress
from distill.objectives.objective import Objective as Objective
