"""The baseline objective: cosine between the teacher and a linear map of the student."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.objectives.objective import Labels, Objective, Terms
from distill.objectives.terms import cosine
from distill.recipe.sections import ObjectiveSection
from isogon.networks import Features


class CosineSection(ObjectiveSection):
    """The baseline: match directions through one linear layer."""


class Cosine(Objective):
    """mean_b [1 - cos(W s_cls + c, t_cls)], with a trained map to the teacher's width.

    The map is not part of the student (unless the recipe has `space = "teacher"`), so the
    student's own angles may differ from the teacher's by what W changes. CosPress improves
    on this baseline (arXiv:2411.15239). It has no paper of its own.
    """

    section = CosineSection

    def __init__(self, teacher_width: int, student_width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(student_width, teacher_width)

    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return the term cosine."""
        return {"cosine": (1 - cosine(self.expand(student.pooled), teacher.pooled)).mean()}

    @torch.no_grad()
    def begin(self, compression: Float[Tensor, "s t"], length: float) -> None:
        """Start from the transpose of the compression, its best linear inverse."""
        self.expand.weight.copy_(compression.T)
        self.expand.bias.zero_()

    def to_teacher(self) -> nn.Linear:
        """Return the trained layer, which maps to the teacher's direction."""
        return self.expand
