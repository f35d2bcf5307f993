"""VkD: compare in the teacher's space, through an orthogonal map."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from distill.objectives.objective import Labels, Objective, Sizes, Terms
from distill.objectives.terms import whole_batch
from distill.recipe.sections import ObjectiveSection, formerly
from isogon.networks import Features, ImportedNetwork, Student

Normalisation = Literal["layer_norm", "standardise", "whiten"]

_EPSILON = 1e-5

# Parts of a network whose embedding is not the mean of the cells (patch tokens).
_OTHER_EMBEDDINGS = {"cls_token": "its class token", "attn_pool": "pooled by attention"}


class VkdSection(ObjectiveSection):
    """VkD, arXiv:2403.06213."""

    normalization: Normalisation = Field(
        default="layer_norm",
        validation_alias=formerly("normalization", "normalisation"),
        description="of the teacher's features",
    )


class Vkd(Objective):
    """SmoothL1(z_s Q^T, norm(z_t)), z the mean of the patch tokens of each side.

    Q [d_t, d_s] has orthonormal columns if d_t >= d_s, so that it keeps the student's norms
    and angles; else it has orthonormal rows. `norm` is applied to the teacher:

        layer_norm   over channels, no affine, eps 1e-5 (the recognition recipe)
        standardise  per channel over the batch, on both sides (the detection code)
        whiten       covariance of the batch becomes the identity (ours: no released code)

    The batch is that of all processes. If teacher or student gives only one vector per
    image, z is the pooled vector of each side; this is our extension.

    z does not include the class token of a transformer. So VkD alone cannot train an
    embedding that is a class token; the paper adds a classification loss.

    Reference: Miles, Elezi, Deng, "VkD: Improving Knowledge Distillation using
    Orthogonal Projections", arXiv:2403.06213; equal to the authors' code to 1e-9 in
    float64. We parametrise Q by the Cayley map. The released Householder map keeps its
    signs as integers in a diagonal, which weight decay shrinks: after one AdamW step with
    decay Q is zero. The Cayley map has no such state, and the trainer never decays it.
    """

    section = VkdSection

    def __init__(
        self, teacher_width: int, student_width: int, normalisation: Normalisation
    ) -> None:
        super().__init__()
        projection = nn.Linear(student_width, teacher_width, bias=False)
        self.projection: Any = orthogonal(projection, orthogonal_map="cayley")
        self.normalisation = normalisation

    @classmethod
    def from_section(cls, section: VkdSection, sizes: Sizes) -> "Vkd":
        """Return the objective that a recipe's table asks for."""
        return cls(sizes.teacher_width, sizes.student_width, section.normalization)

    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return the term vkd."""
        with torch.autocast(student.tokens.device.type, enabled=False):
            projection: Tensor = self.projection.weight  # computed by the Cayley map
            ours, theirs = student.pooled, teacher.pooled
            if (0, 0) not in (teacher.grid, student.grid):
                ours, theirs = student.cells.mean(dim=1), teacher.cells.mean(dim=1)
            ours, theirs = ours.to(projection.dtype), theirs.to(projection.dtype)
            if self.normalisation != "layer_norm":
                ours, theirs = whole_batch(ours), whole_batch(theirs)
            loss = vkd_loss(ours, theirs, projection, self.normalisation)
        return {"vkd": loss}

    @torch.no_grad()
    def begin(self, compression: Float[Tensor, "s t"], length: float) -> None:
        """Set Q to the compression, whose rows are orthogonal like Q's columns."""
        if len(compression) <= compression.shape[1]:
            self.projection.weight = compression.T

    @torch.no_grad()
    def student_targets(self, teacher: Float[Tensor, "b t"]) -> Float[Tensor, "b s"] | None:
        """Return norm(t) Q, whose length counts; None if the norm depends on a batch."""
        if self.normalisation != "layer_norm":
            return None
        normalised = F.layer_norm(teacher, teacher.shape[1:], eps=_EPSILON)
        targets: Tensor = normalised @ self.projection.weight
        return targets

    def to_teacher(self) -> None:
        """Return None, although Q is linear: it maps to the normalised mean of the cells.

        That is not the direction of the teacher's pooled vector: LayerNorm subtracts the
        mean over channels, and a class token is not the mean of cells. Mapped vectors
        would be wrong queries for an index of the teacher's embeddings.
        """

    def why_untrained(self, student: Student, name: str) -> str | None:
        """Return a reason unless the embedding is the mean of the cells, as VkD needs."""
        network = student.backbone.plain
        if isinstance(student.backbone, ImportedNetwork):
            if student.backbone.grid == (0, 0):
                return None
            return (
                f"VkD trains the mean of the cells, but the embedding of {name} is its "
                f'first token. Add an [[objective]] `name = "cosine"`.'
            )
        for part, embedding in _OTHER_EMBEDDINGS.items():
            if getattr(network, part, None) is not None:
                return (
                    f"VkD trains the mean of the cells, but the embedding of {name} is "
                    f"{embedding}, which nothing would train. Add an [[objective]] that "
                    f'does: `name = "cosine"`, or "kd" if there are classes.'
                )
        return None

    def undecayed(self) -> set[str]:
        """Return the projection: decay would only move it."""
        return {name for name, _ in self.named_parameters()}


def vkd_loss(
    student: Float[Tensor, "b s"],
    teacher: Float[Tensor, "b t"],
    projection: Float[Tensor, "t s"],
    normalisation: Normalisation = "layer_norm",
) -> Float[Tensor, ""]:
    """Return the loss of pooled features under a given projection."""
    match normalisation:
        case "layer_norm":
            teacher = F.layer_norm(teacher, teacher.shape[1:], eps=_EPSILON)
        case "standardise":
            student, teacher = _standardised(student), _standardised(teacher)
        case "whiten":
            teacher = _whitened(teacher)
    return F.smooth_l1_loss(student @ projection.T, teacher)


def _standardised(features: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    centred = features - features.mean(dim=0)
    return centred / (features.var(dim=0, unbiased=False) + _EPSILON).sqrt()


def _whitened(features: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Return features with identity covariance in the directions in which they vary."""
    centred = features - features.mean(dim=0)
    left, values, right = torch.linalg.svd(centred, full_matrices=False)
    varies = values > _EPSILON * values.max()
    scale = torch.where(varies, len(features) ** 0.5, 0.0).to(values.dtype)
    whitened: Tensor = (left * scale) @ right
    return whitened
