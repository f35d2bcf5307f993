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
    """Validation images, and the teacher's cosines between them and a bank of images."""

    def __init__(
        self, crops: Loader, teacher: Float32[np.ndarray, "n d"], *, asked: int
    ) -> None:
        """Compute the teacher's cosines.

        Args:
            crops: batches of their plain crops, uint8 [b, h, w, 3], as in deployment.
            teacher: the teacher's pooled vectors of the same images in the same order.
            asked: how many of the images, the last ones, are looked up among all. The
                others are of training images: in deployment too an image that is new to
                the student is compared with images that it has learnt from.
        """
        self._crops = crops
        self._asked = asked
        self._cosines = self._between(directions(teacher))

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
        cosines = self._between(ours)
        k = min(NEIGHBOURS, cosines.shape[1])
        return Validated(
            step=step,
            overlap=neighbour_overlap(self._cosines, cosines, k=k),
            distortion=float(np.abs(cosines - self._cosines).mean(dtype=np.float64)),
        )

    def _between(self, units: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "q m"]:
        """Return the cosines of each image that is asked with all others, m = n - 1."""
        count, first = len(units), len(units) - self._asked
        others = ~np.eye(count, dtype=bool)[first:]
        cosines = units[first:] @ units.T
        found: Float32[np.ndarray, "q m"] = cosines[others].reshape(self._asked, count - 1)
        return found
