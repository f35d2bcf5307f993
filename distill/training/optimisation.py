"""From the recipe's `[train]` to an optimiser and the course of its learning rate."""

import math
from collections.abc import Collection

import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from distill.recipe import TrainSection

_WARMUP_START = 1 / 500  # of the learning rate; CosPress's 1e-6 for 5e-4


def optimizer_for(
    module: nn.Module, section: TrainSection, *, undecayed: Collection[str]
) -> torch.optim.Optimizer:
    """Return the optimiser; weight decay leaves vectors and `undecayed` alone."""
    # Two groups also where nothing decays: a continued run may change that.
    groups = param_groups_weight_decay(
        module, section.weight_decay or 1.0, no_weight_decay_list=undecayed
    )
    for group in groups:
        group["weight_decay"] = section.weight_decay if group["weight_decay"] else 0.0
    if section.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=section.learning_rate)
    return torch.optim.SGD(
        groups,
        lr=section.learning_rate,
        momentum=section.momentum,
        nesterov=section.nesterov,
    )


def schedule_for(
    optimizer: torch.optim.Optimizer, section: TrainSection, steps_per_epoch: int
) -> Scheduler:
    """Return the schedule; `step_update(step)` sets the learning rate of a step."""
    warmup = math.ceil(section.warmup_epochs * steps_per_epoch)
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
        t_initial=max(section.epochs * steps_per_epoch, 2),
        lr_min=section.final_learning_rate,
        warmup_t=warmup,
        warmup_lr_init=start,
        t_in_epochs=False,
    )
