"""RKD: compare distances and angles within a batch, not coordinates."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from distill.objectives.objective import Labels, Objective, Sizes, Terms
from distill.objectives.terms import precise, whole_batch
from distill.recipe.sections import ObjectiveSection
from isogon.networks import Features


class RkdSection(ObjectiveSection):
    """RKD, arXiv:1904.05068."""

    distance_weight: float = Field(default=1.0, ge=0, description="on distances of pairs")
    angle_weight: float = Field(default=2.0, ge=0, description="on angles of triples")


class Rkd(Objective):
    """Huber losses between the pairwise distances, and the angles, of two batches.

        distance = huber(|s_i - s_j| / mean, |t_i - t_j| / mean) over pairs
        angle    = huber(angle at j of s_i, s_j, s_k; the same of t) over triplets

    Both are invariant to rotation, translation and scale, so student and teacher may have
    different widths, without a head. The batch is that of all processes. Angles take b^3
    numbers in each process: keep the batch below 512.

    Reference: Park et al., "Relational Knowledge Distillation", arXiv:1904.05068, as
    released: distances are divided by their mean over i != j, and the losses average
    over all b^2 pairs and b^3 triplets, also the zero ones. The default weights keep
    the paper's ratio of 1 : 2.
    """

    section = RkdSection

    def __init__(self, *, distance_weight: float, angle_weight: float) -> None:
        super().__init__()
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    @classmethod
    def from_section(cls, section: RkdSection, sizes: Sizes) -> "Rkd":
        """Return the objective that a recipe's table asks for; it needs no sizes."""
        return cls(
            distance_weight=section.distance_weight, angle_weight=section.angle_weight
        )

    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return the terms distance and angle."""
        with torch.autocast(student.tokens.device.type, enabled=False):
            ours = whole_batch(precise(student.pooled))
            theirs = whole_batch(precise(teacher.pooled))
            distance = F.smooth_l1_loss(_distances(ours), _distances(theirs))
            angle = F.smooth_l1_loss(_angles(ours), _angles(theirs))
        return {
            "distance": self.distance_weight * distance,
            "angle": self.angle_weight * angle,
        }


def _distances(features: Float[Tensor, "b d"]) -> Float[Tensor, " pairs"]:
    """Return all b^2 distances in units of their mean over i != j."""
    pairs = F.pdist(features)  # i < j; its gradient is defined at zero distance
    b = len(features)
    zeros = pairs.new_zeros(b)
    return torch.cat([pairs, pairs, zeros]) / pairs.mean().clamp_min(1e-12)


def _angles(features: Float[Tensor, "b d"]) -> Float[Tensor, "b b b"]:
    """Return the cosine of the angle at j between i and k, for all i, j, k."""
    directions = F.normalize(features[None] - features[:, None], dim=2)
    return directions @ directions.mT
