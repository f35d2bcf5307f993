"""What every objective is: named loss terms from student and teacher features."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor, nn

from backbones import Features

Terms = dict[str, Float[Tensor, ""]]


class Objective(nn.Module, ABC):
    """A loss with its own trainable heads, which are not part of the student."""

    @abstractmethod
    def forward(self, student: Features, teacher: Features) -> Terms:
        """Return the terms by name; the loss is their sum.

        The teacher's features carry no gradient.
        """

    @property
    def wants_start(self) -> bool:
        """Whether `start` is to be called before the first step of a run."""
        return False

    def start(self, teacher: Iterable[Features]) -> None:
        """Set the heads from features of the teacher, before training.

        Called only where `wants_start`; most objectives start as they are made.
        """

    def undecayed(self) -> set[str]:
        """Return the names of parameters that weight decay must leave alone."""
        return set()
