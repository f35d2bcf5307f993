"""CosPress: compress the teacher so that angles are kept, and imitate the result."""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from distill.objectives.objective import Labels, Objective, Sizes, StartOn, Terms
from distill.objectives.sne import sne_divergence
from distill.objectives.terms import cosine, precise, whole_batch
from distill.recipe.sections import ObjectiveSection
from isogon.networks import Features

_Positive = Annotated[float, Field(gt=0)]
_TEMPERATURES = tuple(step / 100 for step in range(1, 11))


class CosPressSection(ObjectiveSection):
    """CosPress, arXiv:2411.15239."""

    temperatures: tuple[_Positive, ...] = Field(
        default=_TEMPERATURES,
        min_length=1,
        description="of the similarities; the divergence is a mean over them",
    )
    init: Literal["random", "pca"] = Field(
        default="pca", description="how the compression head starts"
    )


class CosPress(Objective):
    """Two tasks in one optimiser: a compression head, and a student without a head.

    The head g = Linear(LayerNorm(t)) maps the teacher's tokens to the student's width. It
    is trained to keep neighbourhoods: K is the SNE divergence of `sne.py`. The student is
    trained on cosines with the compressed tokens z = g(t), without gradient to g:

        local   = mean_b K(t_b, z_b), over the tokens of an image
        global  = K(t_cls, z_cls), over the class tokens of the batch of all processes
        feature = mean_b [1 - cos(vec(s_b), sg vec(z_b))], one cosine per image
        token   = mean_b [1 - cos(s_cls, sg z_cls)]

    Reference: Mannix, Hodgkinson, Bondell, "Preserving Angles Improves Feature
    Distillation", arXiv:2411.15239; equal to the authors' code to 1e-9 in float64.
    Our extensions: if the grids of teacher and student differ, z's cells (patch tokens)
    are resampled (bilinear, antialiased) to the student's grid for `feature`. The head may
    start from a principal component analysis, see `start`. If only the teacher's embeddings
    are known, `global` and `token` remain.
    """

    section = CosPressSection

    def __init__(
        self,
        teacher_width: int,
        student_width: int,
        temperatures: tuple[float, ...],
        *,
        pca_start: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(teacher_width)
        self.compress = nn.Linear(teacher_width, student_width)
        self.temperatures = temperatures
        self.pca_start = pca_start

    @classmethod
    def from_section(cls, section: CosPressSection, sizes: Sizes) -> "CosPress":
        """Return the objective that a recipe's table asks for."""
        return cls(
            sizes.teacher_width,
            sizes.student_width,
            section.temperatures,
            pca_start=section.init == "pca",
        )

    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return the terms global, token, local and feature."""
        return self.terms(student, teacher, self.compressed(teacher))

    def compressed(self, teacher: Features) -> Features:
        """Return z, the teacher's tokens in the student's width."""
        return Features(tokens=self.compress(self.norm(teacher.tokens)), grid=teacher.grid)

    def terms(self, student: Features, teacher: Features, z: Features) -> Terms:
        """Return the terms for given compressed tokens."""
        target = Features(tokens=z.tokens.detach(), grid=z.grid)
        pooled = {
            "global": sne_divergence(
                whole_batch(precise(teacher.pooled)),
                whole_batch(precise(z.pooled)),
                self.temperatures,
            ),
            "token": _one_minus_cosine(student.pooled, target.pooled),
        }
        if teacher.grid == (0, 0):
            return pooled
        local = sne_divergence(teacher.tokens, z.tokens, self.temperatures)
        resampled = target.on_grid(student.grid).tokens
        return pooled | {
            "local": local.mean(),
            "feature": _one_minus_cosine(student.tokens.flatten(1), resampled.flatten(1)),
        }

    @property
    def start_on(self) -> StartOn:
        """A sample, if the head starts from principal components."""
        return "sample" if self.pca_start else "nothing"

    @torch.no_grad()
    def start(self, sample: Iterable[tuple[Features, Labels]]) -> None:
        """Set the linear map to the uncentred PCA of the normalised tokens.

        No linear map of this rank keeps more of their inner products. The vectors are
        LayerNorm(t), which all have the same length and are the input of the map. Class
        tokens and cells have the same weight.
        """
        weight = self.compress.weight
        moment = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64)
        count = 0
        for features, _ in sample:
            vectors = self.norm(features.tokens.to(weight.device)).flatten(0, 1)
            directions = F.normalize(vectors.double().cpu(), dim=1)
            moment += directions.T @ directions
            count += len(directions)
        components = torch.linalg.eigh(moment / count).eigenvectors
        leading = components.flip(1)[:, : weight.shape[0]].T  # largest first
        weight[: len(leading)].copy_(leading)
        self.compress.bias.zero_()

    @torch.no_grad()
    def student_targets(self, teacher: Float[Tensor, "b t"]) -> Float[Tensor, "b s"]:
        """Return the directions of z, which the student imitates."""
        return F.normalize(self.compress(self.norm(teacher)), dim=1)


def _one_minus_cosine(
    student: Float[Tensor, "b d"], target: Float[Tensor, "b d"]
) -> Float[Tensor, ""]:
    return (1 - cosine(student, target)).mean()
