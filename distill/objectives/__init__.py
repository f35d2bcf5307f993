"""What a student is trained towards; one objective per file, behind one interface."""

from distill.objectives.choice import objective_from_recipe as objective_from_recipe
from distill.objectives.cosine import Cosine as Cosine
from distill.objectives.cospress import CosPress as CosPress
from distill.objectives.coss import Coss as Coss
from distill.objectives.isogon import Isogon as Isogon
from distill.objectives.kd import Kd as Kd
from distill.objectives.nd import Nd as Nd
from distill.objectives.objective import Objective as Objective
from distill.objectives.proteus import Proteus as Proteus
from distill.objectives.queue import Queue as Queue
from distill.objectives.rkd import Rkd as Rkd
from distill.objectives.vkd import Vkd as Vkd
from distill.objectives.weighted import Weighted as Weighted
