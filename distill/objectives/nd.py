"""ND: have the direction of the teacher's class mean, and at least the teacher's norm."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from distill.objectives.objective import Labels, Objective, Sizes, StartOn, Terms
from distill.objectives.terms import precise, require_classes, required, required_below
from distill.recipe.sections import ObjectiveSection
from isogon.networks import Features

_DROPOUT = 0.5


class NdSection(ObjectiveSection):
    """ND of KD++, arXiv:2305.17007; needs classes."""

    needs_labels = True


class Nd(Objective):
    """mean_i [1 - <f_i, e_y> / max(|f_i|, |t_i|)], e_c the direction of a class mean.

    f is the student's pooled vector, t the teacher's and e_c = mu_c / |mu_c|, where mu_c
    is the mean of the teacher's pooled vectors over the training images of class c,
    without augmentation, computed once at the start and kept as a buffer. Nothing is
    detached: below the teacher's norm the term changes norm and direction, above it only
    the direction. If widths differ, the student's vector passes a head for this term:
    BatchNorm1d(d_s), Dropout(0.5), Linear(d_s, d_t), dropped after training. Each process
    normalises its own images, unless BatchNorm is made synchronous.

    Reference: Wang et al., "Improving Knowledge Distillation via Regularizing Feature
    Norm and Direction", arXiv:2305.17007, the term ND of KD++; equal to the authors'
    code to 1e-9 in float64. Our extension: classes may be pseudo-classes, clusters of
    the teacher's features; see `distill.images.pseudo_classes`.
    """

    section = NdSection

    class_means: Tensor

    def __init__(self, teacher_width: int, student_width: int, classes: int) -> None:
        super().__init__()
        self.head: nn.Module = nn.Identity()
        if teacher_width != student_width:
            self.head = nn.Sequential(
                nn.BatchNorm1d(student_width),
                nn.Dropout(_DROPOUT),
                nn.Linear(student_width, teacher_width),
            )
        unknown = torch.full((classes, teacher_width), torch.nan)  # until the start
        self.register_buffer("class_means", unknown)

    @classmethod
    def from_section(cls, section: NdSection, sizes: Sizes) -> "Nd":
        """Return the objective that a recipe's table asks for."""
        require_classes(section.name, sizes.classes)
        return cls(sizes.teacher_width, sizes.student_width, sizes.classes)

    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return the term nd."""
        ours, numbers = (
            self.head(student.pooled),
            required(labels, "nd", len(self.class_means)),
        )
        with torch.autocast(ours.device.type, enabled=False):
            loss = nd_loss(
                precise(ours), precise(teacher.pooled), self.class_means, numbers
            )
        return {"nd": loss}

    @property
    def start_on(self) -> StartOn:
        """Everything: the class means are over the whole training set."""
        return "everything"

    @torch.no_grad()
    def start(self, sample: Iterable[tuple[Features, Labels]]) -> None:
        """Compute the class means; a class without images has mean 0, which is not used.

        Raises:
            UsageError: a class number is not below `classes`.
        """
        classes, width = self.class_means.shape
        sums = torch.zeros(classes, width, dtype=torch.float64)
        counts = torch.zeros(classes, dtype=torch.float64)
        for features, labels in sample:
            numbers = required_below(labels, "nd", classes)
            sums.index_add_(0, numbers, features.pooled.cpu().double())
            counts += torch.bincount(numbers, minlength=classes)
        self.class_means.copy_(sums / counts.clamp_min(1)[:, None])


def nd_loss(
    student: Float[Tensor, "b d"],
    teacher: Float[Tensor, "b d"],
    class_means: Float[Tensor, "c d"],
    labels: Int[Tensor, " b"],
) -> Float[Tensor, ""]:
    """Return the loss of features of one width under given class means."""
    directions = F.normalize(class_means, dim=1)[labels]
    norms = torch.maximum(student.norm(dim=1), teacher.norm(dim=1))
    return (1 - (student * directions).sum(dim=1) / norms.clamp_min(1e-12)).mean()
