"""Proteus: reproduce all of the teacher's tokens, also the class token."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from distill.objectives.objective import Labels, Objective, Terms
from distill.recipe.sections import ObjectiveSection
from isogon.networks import Features


class ProteusSection(ObjectiveSection):
    """Proteus, arXiv:2407.10366."""


class Proteus(Objective):
    """Mean squared errors in the teacher's space, through heads on the student.

        token   = MSE(g(s_cls), t_cls)
        feature = MSE([g(s_cls), h(s_patches)], t), over all tokens

    g and h are LayerNorm(d_s) -> Linear(d_s, d_t), trained and then dropped, so the
    student's own angles are not constrained. Reference: Zhang et al., "Accessing Vision
    Foundation Models at ImageNet-level Costs", arXiv:2407.10366, as released, where the
    class token passes the same head in both terms. Its patch-masking term is missing: the
    student would need masked images. Our extension: if the grids differ, the teacher's
    cells (patch tokens) are resampled to the student's grid.
    """

    section = ProteusSection
    needs_tokens = True  # the term feature compares cells

    def __init__(self, teacher_width: int, student_width: int) -> None:
        super().__init__()
        self.token = _head(student_width, teacher_width)
        self.feature = _head(student_width, teacher_width)

    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return the terms token and feature."""
        if teacher.grid == (0, 0):
            raise ValueError(
                "Proteus compares cells, but this teacher gives only embeddings; take an "
                "objective that works without cells, such as cospress or cosine."
            )
        target = teacher.on_grid(student.grid)
        token, cells = self.token(student.pooled), self.feature(student.cells)
        return {
            "token": F.mse_loss(token, teacher.pooled),
            "feature": F.mse_loss(torch.cat([token[:, None], cells], 1), target.tokens),
        }

    @torch.no_grad()
    def begin(self, compression: Float[Tensor, "s t"], length: float) -> None:
        """Start from the transpose of the compression, scaled for LayerNorm's output."""
        for head in (self.token, self.feature):
            linear = head[1]
            assert isinstance(linear, nn.Linear)
            linear.weight.copy_(compression.T * (length / linear.in_features**0.5))
            linear.bias.zero_()


def _head(student_width: int, teacher_width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(student_width), nn.Linear(student_width, teacher_width)
    )
