"""What the student learns from: the teacher's features of exactly the views it sees."""

from abc import ABC, abstractmethod

import torch

from distill.images.loading import Batch
from isogon.errors import UsageError
from isogon.networks import Features


class Targets(ABC):
    """The teacher's features of a batch of views, wherever they come from."""

    width: int
    replayed: int | None = None  # after how many views of an image they start again
    sizes: tuple[int, ...] = ()  # in which views must come, beside the student's own

    @abstractmethod
    def place(self, device: torch.device) -> None:
        """Move what computes, if anything does, to `device`."""

    @abstractmethod
    def features(self, batch: Batch) -> Features:
        """Return the teacher's features of the views, on the device of their pixels."""

    def fault(self) -> UsageError | None:
        """Return what was wrong with the features since the last call, if anything.

        Asked between steps, because the answer makes the host wait for the device.
        """
        return None
