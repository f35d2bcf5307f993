"""Isogon's own objective: CosPress, with absolute angles brought back."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from backbones import Features
from distill.objectives.cospress import CosPress
from distill.objectives.gather import whole_batch
from distill.objectives.objective import Labels, Objective, StartOn, Terms
from distill.objectives.precision import precise
from distill.objectives.sne import cosines


class Isogon(Objective):
    """CosPress's four terms, plus squared differences of cosines on both sides.

    SNE compares softmaxes of cosines. It keeps the order of neighbours but does not
    notice when all cosines of a row shift together, which is what a threshold on the
    cosine, or an index built by the teacher, needs. With C the cosines of a set,

        angle = angle_weight * [mean_b mse(C(z_b), C(t_b)) + mse(C(z_cls), C(t_cls))]
        pairs = pairs_weight * [mean_b mse(C(s_b), C(t_b)) + mse(C(s_cls), C(t_cls))]

    each once over the tokens of an image and once over the class tokens of the batch of
    all processes, the diagonals left out.
    `angle` teaches the compression head, `pairs` the student; `pairs` compares with the
    teacher itself, not with its compression. Student and teacher must have equal grids
    for the per-image half of `pairs`; otherwise it compares class tokens only. Of a
    teacher known by its embeddings alone, CosPress's terms `global` and `token` remain,
    and the halves over the class tokens.

    Ours, without a paper; CosPress is arXiv:2411.15239. With both weights 0 it is CosPress.
    """

    def __init__(
        self, cospress: CosPress, *, angle_weight: float, pairs_weight: float
    ) -> None:
        super().__init__()
        self.cospress = cospress
        self.angle_weight = angle_weight
        self.pairs_weight = pairs_weight

    @property
    def start_on(self) -> StartOn:
        """What the compression head asks for."""
        return self.cospress.start_on

    def start(self, sample: Iterable[tuple[Features, Labels]]) -> None:
        """Start the compression head."""
        self.cospress.start(sample)

    def student_targets(self, teacher: Float[Tensor, "b t"]) -> Float[Tensor, "b s"]:
        """The directions of the compression head's output."""
        return self.cospress.student_targets(teacher)

    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return CosPress's terms, angle and pairs."""
        z = self.cospress.compressed(teacher)
        theirs = whole_batch(precise(teacher.pooled))
        angle = _difference(whole_batch(precise(z.pooled)), theirs)
        pairs = _difference(whole_batch(precise(student.pooled)), theirs)
        if teacher.grid != (0, 0):
            angle = angle + _difference(z.tokens, teacher.tokens)
            if student.grid == teacher.grid:
                pairs = pairs + _difference(student.tokens, teacher.tokens)
        return self.cospress.terms(student, teacher, z) | {
            "angle": self.angle_weight * angle,
            "pairs": self.pairs_weight * pairs,
        }


def _difference(
    ours: Float[Tensor, "*sets n d"], theirs: Float[Tensor, "*sets n e"]
) -> Float[Tensor, ""]:
    """Return the mean squared difference of all off-diagonal cosines."""
    with torch.autocast(ours.device.type, enabled=False):
        n = ours.shape[-2]
        squares = (cosines(ours) - cosines(theirs)) ** 2
        return squares.mean() * n / (n - 1)  # the diagonal is 0 on both sides
