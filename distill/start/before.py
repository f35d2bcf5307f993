"""The student before training, kept to be measured beside what training makes of it."""

from dataclasses import dataclass

from torch import nn

from backbones import Backbone


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """The student's network as it was, on the run's device, in evaluation mode."""

    backbone: Backbone
    layer: nn.Linear | None  # of the closed-form start; None where it started otherwise
    pretrained: bool  # whether the network had pretrained weights
