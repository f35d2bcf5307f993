"""Chooses which weights are kept, on images that no step learns from."""

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
    """What the student keeps of the teacher among the validation images."""

    step: int
    overlap: float  # share of the teacher's 10 nearest that are the student's as well
    distortion: float  # mean |cos_student - cos_teacher|

    @property
    def score(self) -> float:
        """Larger is better; both figures lie between 0 and 1 and count alike."""
        return self.overlap - self.distortion


class Validation:
    """Training images set aside, and how the teacher sees them."""

    def __init__(self, crops: Loader, teacher: Float32[np.ndarray, "n d"]) -> None:
        """Describe the images.

        Args:
            crops: their plain crops, uint8 [b, h, w, 3] a batch, as deployment has them.
            teacher: the teacher's pooled vectors of the same images in the same order.
        """
        self._crops = crops
        theirs = directions(teacher)
        self._cosines = theirs @ theirs.T

    @torch.no_grad()
    def measured(self, student: Student, step: int) -> Validated:
        """Return the figures of the student as it is; its mode is put back."""
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
        # Of its own the image is nearest: one more is asked for than counts.
        away = np.eye(len(ours), dtype=np.float32) * 4
        k = min(NEIGHBOURS, len(ours) - 1)
        return Validated(
            step=step,
            overlap=neighbour_overlap(self._cosines - away, cosines - away, k=k),
            distortion=float(np.abs(cosines - self._cosines).mean(dtype=np.float64)),
        )
