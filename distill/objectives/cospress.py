"""CosPress: compress the teacher so that angles survive, and imitate the result."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from backbones import Features
from distill.objectives.objective import Objective, Terms
from distill.objectives.sne import sne_divergence


class CosPress(Objective):
    """Two tasks in one optimiser: a compression head, and a student without head.

    The head g = Linear(LayerNorm(t)) maps the teacher's tokens to the student's width.
    It learns from how well neighbourhoods survive, K being the SNE divergence of
    `sne.py`; the student learns from the cosines with the compressed tokens z = g(t),
    which it cannot move:

        local   = mean_b K(t_b, z_b), over the tokens of an image
        global  = K(t_cls, z_cls), over the class tokens of the batch
        feature = mean_b [1 - cos(vec(s_b), sg vec(z_b))], one cosine per image
        token   = mean_b [1 - cos(s_cls, sg z_cls)]

    Reference: Mannix, Hodgkinson, Bondell, "Preserving Angles Improves Feature
    Distillation", arXiv:2411.15239; equal to the authors' code to 1e-9 in float64.
    Our extension: where the grids of teacher and student differ, z's cells are
    resampled (bilinear, antialiased) to the student's grid for `feature`.
    """

    def __init__(
        self,
        teacher_width: int,
        student_width: int,
        temperatures: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(teacher_width)
        self.compress = nn.Linear(teacher_width, student_width)
        self.temperatures = temperatures

    def forward(self, student: Features, teacher: Features) -> Terms:
        """Return the terms local, global, feature and token."""
        z = self.compress(self.norm(teacher.tokens))
        target = Features(tokens=z.detach(), grid=teacher.grid)
        return {
            "local": sne_divergence(teacher.tokens, z, self.temperatures).mean(),
            "global": sne_divergence(teacher.pooled, z[:, 0], self.temperatures),
            "feature": _one_minus_cosine(
                student.tokens.flatten(1), _on_grid(target, student.grid).flatten(1)
            ),
            "token": _one_minus_cosine(student.pooled, target.pooled),
        }


def _one_minus_cosine(
    student: Float[Tensor, "b d"], target: Float[Tensor, "b d"]
) -> Float[Tensor, ""]:
    return (1 - F.cosine_similarity(student, target, dim=1)).mean()


def _on_grid(features: Features, grid: tuple[int, int]) -> Float[Tensor, "b n d"]:
    """Return the tokens with their cells resampled to `grid`; the class token stays."""
    if features.grid == grid:
        return features.tokens
    tokens = features.tokens
    cells = tokens[:, 1:].mT.reshape(len(tokens), -1, *features.grid)
    resampled = F.interpolate(cells, size=grid, mode="bilinear", antialias=True)
    return torch.cat([tokens[:, :1], resampled.flatten(2).mT], dim=1)
