"""CoSS: similar images as vectors over channels, and similar channels over images."""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from distill.images.neighbours import GROUP
from distill.objectives.objective import Labels, Objective, Sizes, Terms
from distill.objectives.terms import cosine, whole_batch
from distill.recipe.sections import ObjectiveSection
from isogon.networks import Features

_HIDDEN = 2048


class CossSection(ObjectiveSection):
    """CoSS, arXiv:2409.13939."""

    weight_space: float = Field(
        default=1.0, ge=0, description="on the similarities among the images"
    )
    teacher_temperature: float = Field(
        default=0.07, gt=0, description="of the teacher's similarities"
    )
    student_temperature: float = Field(
        default=0.1, gt=0, description="of the student's similarities"
    )
    batches: Literal["random", "neighbours"] = Field(
        default="random",
        description="neighbours: images together with near ones; batch_size a multiple of "
        "16",
    )

    @property
    def of_neighbours(self) -> bool:
        """Whether `batches` is "neighbours"."""
        return self.batches == "neighbours"

    def require_batch(self, batch_size: int, parts: int) -> None:
        """Raise `ValueError` if a part would not hold whole groups of neighbours."""
        size = GROUP * parts
        if self.of_neighbours and batch_size % size:
            raise ValueError(
                f"expected batch_size to be a multiple of {GROUP} x devices x nodes x "
                f"accumulate = {size}, because batches of neighbours hold groups of "
                f"{GROUP} images, got {batch_size}"
            )


class Coss(Objective):
    """(L_co + weight_space * L_ss) / (T_t T_s) on pooled features A [b, d].

        L_co = - mean over rows i    of cos(A_s[i, :], A_t[i, :])
        L_ss = - mean over columns j of cos(A_s[:, j], A_t[:, j])

    Columns are over the batch of all processes. Neither side is centred or normalised
    first. The temperatures divide vectors that are already normalised, so they are a
    constant gain; the released runs use 0.07 and 0.1, a gain of 142.86. If widths differ,
    the student's vector passes a trained head Linear(d_s, 2048), ReLU, Linear(2048, d_t),
    which is dropped after training.

    Reference: Singh, Wang, "Simple Unsupervised Knowledge Distillation With Space
    Similarity", arXiv:2409.13939; equal to the authors' code to 1e-9 in float64. Their
    batches of neighbours are in `distill.images.neighbours`.
    """

    section = CossSection

    def __init__(
        self,
        teacher_width: int,
        student_width: int,
        *,
        weight_space: float,
        teacher_temperature: float,
        student_temperature: float,
    ) -> None:
        super().__init__()
        self.head: nn.Module = nn.Identity()
        if teacher_width != student_width:
            self.head = nn.Sequential(
                nn.Linear(student_width, _HIDDEN),
                nn.ReLU(),
                nn.Linear(_HIDDEN, teacher_width),
            )
        self.weight_space = weight_space
        self.width = student_width
        self.gain = 1 / (teacher_temperature * student_temperature)

    @classmethod
    def from_section(cls, section: CossSection, sizes: Sizes) -> "Coss":
        """Return the objective that a recipe's table asks for."""
        return cls(
            sizes.teacher_width,
            sizes.student_width,
            weight_space=section.weight_space,
            teacher_temperature=section.teacher_temperature,
            student_temperature=section.student_temperature,
        )

    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return the terms cosine and space."""
        ours = self.head(student.pooled)
        columns = _minus_cosine(whole_batch(ours).mT, whole_batch(teacher.pooled).mT)
        return {
            "cosine": self.gain * _minus_cosine(ours, teacher.pooled),
            "space": self.gain * self.weight_space * columns,
        }

    def to_teacher(self) -> nn.Linear | None:
        """Return the identity if widths are equal; else None: the head is not linear."""
        if not isinstance(self.head, nn.Identity):
            return None
        identity = nn.Linear(self.width, self.width, bias=False)
        nn.init.eye_(identity.weight)
        return identity


def _minus_cosine(
    student: Float[Tensor, "n d"], teacher: Float[Tensor, "n d"]
) -> Float[Tensor, ""]:
    return -cosine(student, teacher).mean()
