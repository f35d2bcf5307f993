"""Features computed when they are needed."""

import torch

from backbones import FeatureExtractor, Features
from distill.images.loading import Batch
from distill.targets.targets import Targets


class OnlineTargets(Targets):
    """A teacher that looks at every view itself."""

    def __init__(self, teacher: FeatureExtractor) -> None:
        self._teacher = teacher
        self.width = teacher.width

    def place(self, device: torch.device) -> None:
        """Move the teacher to `device`."""
        self._teacher.to(device)

    @torch.no_grad()
    def features(self, batch: Batch) -> Features:
        """Run the teacher on the views."""
        features: Features = self._teacher(batch.pixels)
        return features
