"""The student before training, kept to be evaluated beside the trained one."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from isogon.bundle import Bundle
from isogon.networks import FeatureExtractor

START = "start.safetensors"  # in the folder of a run, and in its bundle


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """The student's network as it was, on the run's device, in evaluation mode."""

    backbone: FeatureExtractor
    layer: nn.Linear | None  # of the closed-form start; None where it started otherwise
    pretrained: bool  # whether the network had pretrained weights


def start_arrays(layer: nn.Linear) -> dict[str, np.ndarray]:
    """Return `weight` [d, native width] and `bias` [d], as a bundle stores them."""
    weight = layer.weight.detach().cpu().numpy()
    bias = np.zeros(len(weight), np.float32)
    if layer.bias is not None:
        bias = layer.bias.detach().cpu().numpy()
    return {"weight": weight, "bias": bias}


def start_from_bundle(bundle: Bundle) -> nn.Linear | None:
    """Return the closed-form layer that a bundle holds, if it holds one."""
    if START not in bundle.manifest.files:
        return None
    arrays = bundle.arrays(START)
    weight, bias = (torch.from_numpy(arrays[name]) for name in ("weight", "bias"))
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)
