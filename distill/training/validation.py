"""Figures of a student in training, on images that no step learns from.

The trainer keeps the weights with the best score.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from distill.images.loading import Loader
from isogon.networks import Student
from isogon.ood.knn import directions
from isogon.ood.neighbours import NEIGHBOURS, neighbour_overlap


@dataclass(frozen=True, kw_only=True, slots=True)
class Validated:
    """How much of the teacher the student keeps on the validation images."""

    step: int
    overlap: float  # share of the teacher's 10 nearest that the student has too
    distortion: float  # mean |cos_student - cos_teacher|

    @property
    def score(self) -> float:
        """Larger is better; both figures have the same weight, and are between 0 and 1."""
        return self.overlap - self.distortion


class Validation:
    """Validation images, and the teacher's cosines between them."""

    def __init__(self, crops: Loader, teacher: Float32[np.ndarray, "n d"]) -> None:
        """Compute the teacher's cosines.

        Args:
            crops: batches of their plain crops, uint8 [b, h, w, 3], as in deployment.
            teacher: the teacher's pooled vectors of the same images in the same order.
        """
        self._crops = crops
        theirs = directions(teacher)
        self._cosines = theirs @ theirs.T

    @torch.no_grad()
    def measured(self, student: Student, step: int) -> Validated:
        """Return the student's figures now; its modes are restored."""
        device = student.backbone.mean.device
        modes = [(module, module.training) for module in student.modules()]
        student.eval()
        ours = np.concatenate(
            [
                student.embed(pixels.to(device)).float().cpu().numpy()
                for pixels in self._crops
            ]
        )
        for module, training in modes:
            module.training = training
        cosines = ours @ ours.T
        # Without the diagonal: else each image would be its own nearest.
        away = np.eye(len(ours), dtype=np.float32) * 4
        k = min(NEIGHBOURS, len(ours) - 1)
        return Validated(
            step=step,
            overlap=neighbour_overlap(self._cosines - away, cosines - away, k=k),
            distortion=float(np.abs(cosines - self._cosines).mean(dtype=np.float64)),
        )
