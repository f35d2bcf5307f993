"""What the student learns from: the teacher's features of exactly the views it sees."""

from abc import ABC, abstractmethod

import torch

from backbones import Backbone, Features
from distill.loading import Batch


class Targets(ABC):
    """The teacher's features of a batch of views, wherever they come from."""

    width: int
    replayed: int | None = None  # after how many views of an image they start again

    @abstractmethod
    def place(self, device: torch.device) -> None:
        """Move what computes, if anything does, to `device`."""

    @abstractmethod
    def features(self, batch: Batch) -> Features:
        """Return the teacher's features of the views, on the device of their pixels."""


class OnlineTargets(Targets):
    """A teacher that looks at every view itself."""

    def __init__(self, teacher: Backbone) -> None:
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
