"""Features computed when they are needed."""

import torch

from backbones import FeatureExtractor, Features
from distill.images.loading import Batch
from distill.targets.targets import Targets


class OnlineTargets(Targets):
    """A teacher that looks at every view itself."""

    def __init__(self, teacher: FeatureExtractor, size: int | None = None) -> None:
        """Look through `teacher`, at views of `size`; None for the student's own."""
        self._teacher = teacher
        self._size = size
        self.width = teacher.width
        self.sizes = () if size is None else (size,)

    def place(self, device: torch.device) -> None:
        """Move the teacher to `device`."""
        self._teacher.to(device)

    @torch.no_grad()
    def features(self, batch: Batch) -> Features:
        """Run the teacher on the views."""
        pixels = batch.pixels if self._size is None else batch.pixels_at(self._size)
        features: Features = self._teacher(pixels)
        return features
