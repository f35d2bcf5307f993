"""The student's network before training, kept to be measured beside the student."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from backbones import Backbone, Student
from bundle import Bundle

START = "start.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """A student before its first step."""

    backbone: Backbone  # in evaluation mode, never trained
    layer: nn.Linear | None  # the closed-form one, on `backbone(pixels).pooled`
    pretrained: bool  # whether the network had pretrained weights


def before_training(student: Student, *, pretrained: bool) -> Before:
    """Return a copy of the student's network as it is now."""
    backbone = copy.deepcopy(student.backbone).eval().requires_grad_(False)
    return Before(backbone=backbone, layer=None, pretrained=pretrained)


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
