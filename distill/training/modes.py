"""The memory layout and the BatchNorm mode of a student during training."""

from typing import Literal

import torch
from torch import nn

from isogon.networks import Backbone, Student

BatchStatistics = Literal["free", "frozen", "re-estimated"]

_BatchNorm = nn.modules.batchnorm._BatchNorm


def freeze_statistics(student: Student, statistics: BatchStatistics) -> None:
    """Put the student's BatchNorm layers into evaluation, unless they are to learn.

    With the statistics of a batch a pretrained network computes another function at
    once, and a folder of one kind of image moves the running ones away from what the
    weights were trained for. Scale and shift of each channel are learnt all the same.
    """
    if statistics == "free":
        return
    for part in student.modules():
        if isinstance(part, _BatchNorm):
            part.eval()


def channels_last(student: Student) -> None:
    """Lay convolutions out channels last: the same sums, 1.4 times as fast on a CPU."""
    backbone = student.backbone
    if isinstance(backbone, Backbone) and backbone.pools_from_map:
        backbone.to(memory_format=torch.channels_last)
