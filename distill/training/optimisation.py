"""From the recipe's `[train]` to an optimiser, its learning rate, a student's modes."""

import math
from collections.abc import Collection
from typing import Any, Literal

import torch
from timm.models import group_parameters
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from distill.recipe import TrainSection
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


# Where the student's parts lie in what is optimised: timm's model, or one's own network.
BACKBONES = ("student.backbone.model.", "student.backbone.network.")
EMBEDDING = "student.embedding."
_WARMUP_START = 1 / 500  # of the learning rate; CosPress's 1e-6 for 5e-4


def optimizer_for(
    module: nn.Module, section: TrainSection, *, undecayed: Collection[str]
) -> torch.optim.Optimizer:
    """Return the optimiser; weight decay leaves vectors and `undecayed` alone.

    Each parameter's rate is `learning_rate` times its `lr_scale`, which the schedule
    knows: `layer_rate` for the student's embedding layer, and `layer_decay` to the power
    of how many blocks lie between a block and the student's last (arXiv:2106.08254).
    """
    # As many groups also where nothing decays: a continued run may change that.
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    scales = _scales(module, section)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and name not in undecayed
        key = decays, scales.get(name, 1.0)
        decay = section.weight_decay if decays else 0.0
        fresh: dict[str, Any] = {"params": [], "weight_decay": decay, "lr_scale": key[1]}
        groups.setdefault(key, fresh)["params"].append(parameter)
    if section.optimizer == "adamw":
        return torch.optim.AdamW([*groups.values()], lr=section.learning_rate)
    return torch.optim.SGD(
        [*groups.values()],
        lr=section.learning_rate,
        momentum=section.momentum,
        nesterov=section.nesterov,
    )


def _scales(module: nn.Module, section: TrainSection) -> dict[str, float]:
    """Return the parameters whose rate is not `learning_rate`, and what it is of it."""
    scales = {
        name: section.layer_rate
        for name, _ in module.named_parameters()
        if name.startswith(EMBEDDING)
    }
    if section.layer_decay == 1:
        return scales
    names = {name for name, _ in module.named_modules()}
    (backbone,) = (name for name in BACKBONES if name.removesuffix(".") in names)
    model: Any = module.get_submodule(backbone.removesuffix("."))
    if not hasattr(model, "group_matcher"):
        return scales  # a network of the user's own has no blocks that are known here
    depths: dict[str, int] = group_parameters(
        model, model.group_matcher(coarse=True), reverse=True
    )
    deepest = max(depths.values())
    return scales | {
        backbone + name: section.layer_decay ** (deepest - depth)
        for name, depth in depths.items()
    }


def schedule_for(
    optimizer: torch.optim.Optimizer, section: TrainSection, steps_per_epoch: int
) -> Scheduler:
    """Return the schedule; `step_update(step)` sets the learning rate of a step."""
    total = section.length(steps_per_epoch)
    warmup = math.ceil(section.warmup_epochs * steps_per_epoch)
    if section.warmup_share is not None:
        warmup = math.ceil(section.warmup_share * total)
    start = section.learning_rate * _WARMUP_START
    if section.milestones:
        return MultiStepLRScheduler(
            optimizer,
            # timm counts from one: the first step after the milestone is the first decayed
            decay_t=[epoch * steps_per_epoch + 1 for epoch in section.milestones],
            decay_rate=0.1,
            warmup_t=warmup,
            warmup_lr_init=start,
            t_in_epochs=False,
        )
    return CosineLRScheduler(
        optimizer,
        t_initial=max(total, 2),
        lr_min=section.final_learning_rate,
        warmup_t=warmup,
        warmup_lr_init=start,
        t_in_epochs=False,
    )
