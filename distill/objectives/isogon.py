"""Isogon's own objective: imitate the compressed teacher, and keep its angles."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from distill.objectives.objective import Labels, Objective, Sizes, StartOn, Terms
from distill.objectives.sne import cosines
from distill.objectives.terms import cosine, precise, whole_batch
from distill.recipe.sections import ObjectiveSection
from isogon.networks import Features

_OF_A_HEAD = ("temperatures", "init", "angle_weight")  # keys of earlier versions


class IsogonSection(ObjectiveSection):
    """CosPress's terms on the student, and absolute angles; our own."""

    pairs_weight: float = Field(default=3.0, ge=0, description="on the student's cosines")

    @model_validator(mode="before")
    @classmethod
    def _without_a_trained_head(cls, section: Any) -> Any:
        """Ignore the keys of a head that earlier versions of this objective trained."""
        if not isinstance(section, dict):
            return section
        return {key: value for key, value in section.items() if key not in _OF_A_HEAD}


class IsogonObjective(Objective):
    """CosPress's two terms on the student, with a fixed compression, plus its angles.

    The compression z = W t / |t| is the uncentred PCA of the teacher's unit vectors: no
    linear map of this rank keeps more of their inner products. It is not trained. The head
    that CosPress trains by SNE keeps hardly more neighbours and loses absolute angles: it
    keeps the order of a row's cosines, not their values. With C the cosines of a set,

        token   = mean_b [1 - cos(s_cls, z_cls)]
        feature = mean_b [1 - cos(vec(s_b), vec(z_b))], one cosine per image
        pairs   = pairs_weight * [mse(C(s_cls), C(t_cls)) + mean_b mse(C(s_b), C(t_b))]

    `pairs` compares with the teacher itself: over the class tokens of the batch of all
    processes, and, if student and teacher have equal grids, over the tokens of each image;
    both without the diagonal. If only the teacher's embeddings are known, the terms over
    class tokens remain.

    Our own, without a paper; `token` and `feature` are those of CosPress, arXiv:2411.15239.
    """

    compression: Tensor

    section = IsogonSection

    def __init__(
        self, teacher_width: int, student_width: int, *, pairs_weight: float
    ) -> None:
        super().__init__()
        # Any orthogonal rows of unit norm, until `start`.
        start = torch.empty(student_width, teacher_width)
        self.register_buffer("compression", nn.init.orthogonal_(start))
        self.pairs_weight = pairs_weight

    @classmethod
    def from_section(cls, section: IsogonSection, sizes: Sizes) -> "IsogonObjective":
        """Return the objective that a recipe's table asks for."""
        return cls(
            sizes.teacher_width, sizes.student_width, pairs_weight=section.pairs_weight
        )

    @property
    def start_on(self) -> StartOn:
        """A sample, for the principal axes of its vectors."""
        return "sample"

    @torch.no_grad()
    def start(self, sample: Iterable[tuple[Features, Labels]]) -> None:
        """Set the compression to the principal axes of the teacher's unit vectors.

        An image's class token counts as much as all its cells (patch tokens) together.
        """
        width = self.compression.shape[1]
        moment = torch.zeros(width, width, dtype=torch.float64)
        for features, _ in sample:
            pooled = F.normalize(features.pooled.double().cpu(), dim=1)
            moment += pooled.T @ pooled
            if features.grid != (0, 0):
                cells = F.normalize(features.cells.double().cpu(), dim=2)
                share = cells.shape[1] ** -0.5
                cells = share * cells.flatten(0, 1)
                moment += cells.T @ cells
        axes = torch.linalg.eigh(moment).eigenvectors.flip(1).T  # largest first
        leading = axes[: len(self.compression)]
        self.compression.zero_()
        self.compression[: len(leading)].copy_(leading)

    @torch.no_grad()
    def student_targets(self, teacher: Float[Tensor, "b t"]) -> Float[Tensor, "b s"]:
        """Return z; its length says how much of a vector the compression keeps."""
        return F.normalize(teacher, dim=1) @ self.compression.to(teacher).T

    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return the terms token, feature and pairs."""
        units = F.normalize(precise(teacher.tokens), dim=2)
        target = Features(tokens=units @ self.compression.T, grid=teacher.grid)
        pairs = _difference(whole_batch(precise(student.pooled)), whole_batch(units[:, 0]))
        terms = {"token": (1 - cosine(student.pooled, target.pooled)).mean()}
        if teacher.grid != (0, 0):
            resampled = target.on_grid(student.grid).tokens
            whole = cosine(student.tokens.flatten(1), resampled.flatten(1))
            terms["feature"] = (1 - whole).mean()
            if student.grid == teacher.grid:
                pairs = pairs + _difference(student.tokens, units)
        return terms | {"pairs": self.pairs_weight * pairs}


def _difference(
    ours: Float[Tensor, "*sets n d"], theirs: Float[Tensor, "*sets n e"]
) -> Float[Tensor, ""]:
    """Return the mean squared difference of all off-diagonal cosines."""
    with torch.autocast(ours.device.type, enabled=False):
        n = ours.shape[-2]
        squares = (cosines(ours) - cosines(theirs)) ** 2
        return squares.mean() * n / (n - 1)  # the diagonal is 0 on both sides
