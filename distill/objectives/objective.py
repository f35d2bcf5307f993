"""What every objective is: named loss terms from student and teacher features."""

from abc import ABC, abstractmethod

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
