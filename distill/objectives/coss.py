"""CoSS: images alike as vectors over channels, channels alike as vectors over images."""

from jaxtyping import Float
from torch import Tensor, nn

from distill.objectives.gather import whole_batch
from distill.objectives.objective import Labels, Objective, Terms
from distill.objectives.precision import cosine
from isogon.networks import Features

_HIDDEN = 2048


class Coss(Objective):
    """(L_co + weight_space * L_ss) / (T_t T_s) on pooled features A [b, d].

        L_co = - mean over rows i    of cos(A_s[i, :], A_t[i, :])
        L_ss = - mean over columns j of cos(A_s[:, j], A_t[:, j])

    Columns run over the batch of all processes. Neither side is centred or normalised
    before. The temperatures divide vectors that
    are normalised already, so they are a constant gain; the released runs use 0.07
    and 0.1, a gain of 142.86. Where widths differ the student passes a trained head
    Linear(d_s, 2048), ReLU, Linear(2048, d_t), which is not kept.

    Reference: Singh, Wang, "Simple Unsupervised Knowledge Distillation With Space
    Similarity", arXiv:2409.13939; equal to the authors' code to 1e-9 in float64. Their
    batches of neighbours are in `distill.images.neighbours`.
    """

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

    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return the terms cosine and space."""
        ours = self.head(student.pooled)
        columns = _minus_cosine(whole_batch(ours).mT, whole_batch(teacher.pooled).mT)
        return {
            "cosine": self.gain * _minus_cosine(ours, teacher.pooled),
            "space": self.gain * self.weight_space * columns,
        }

    def to_teacher(self) -> nn.Linear | None:
        """The identity where widths are equal; a nonlinear head is no linear map."""
        if not isinstance(self.head, nn.Identity):
            return None
        identity = nn.Linear(self.width, self.width, bias=False)
        nn.init.eye_(identity.weight)
        return identity


def _minus_cosine(
    student: Float[Tensor, "n d"], teacher: Float[Tensor, "n d"]
) -> Float[Tensor, ""]:
    return -cosine(student, teacher).mean()
