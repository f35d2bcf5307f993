"""Helpers for loss terms: float32, the batch of all processes, and checked class numbers.

A term is *local* if it is a mean over images. DistributedDataParallel averages gradients
over the R processes, whose batches have the same size, so the average of means is the mean
over all images. A term is *global* if it compares images: pairs, columns or covariances. It
is computed from `whole_batch`, and every process computes the same number g(x), where x is
the gathered batch. Its gradient is correct for this reason:

    Each process has dg/dx. The backward pass of the gathering sums it over processes, so
    process r receives R dg/dx_r for its own images x_r. Through its copy of the student
    that is R dg/dx_r dx_r/dw. The average over r is sum_r dg/dx_r dx_r/dw, which is dg/dw
    of one process with the whole batch.

Weights that are used after the gathering get dg/dw on every process, and so on average. The
value of a local term that a process reports is the value for its own images.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from distill.objectives.objective import Labels
from isogon.errors import UsageError


def precise(features: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the numbers in float32, or unchanged if they have more precision."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def cosine(one: Float[Tensor, "n d"], other: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return the cosine of each pair of rows, in float32 also under autocast on a CPU."""
    with torch.autocast(one.device.type, enabled=False):
        return F.cosine_similarity(precise(one), precise(other), dim=1)


def whole_batch(features: Float[Tensor, "b d"]) -> Float[Tensor, "whole d"]:
    """Return the features of all processes, in the order of their ranks.

    The gradient, summed over the processes, goes back to the process that has the image.
    All processes must call it equally often, with batches of the same size. With one
    process, or without torch.distributed, it returns `features`.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return features
    gathered: Tensor = _Gather.apply(features)
    return gathered


class _Gather(torch.autograd.Function):
    """All-gather whose backward pass sums over processes.

    torch.distributed.nn.functional.all_gather does the same but is deprecated. Its
    replacement in torch 2.15 is in a private module and has changed its name.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        features = features.contiguous()
        parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, features)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed.chunk(dist.get_world_size())[dist.get_rank()]


def require_classes(name: str, classes: int) -> None:
    """Raise `UsageError` if the training images have too few classes to learn from."""
    if classes < 2:
        raise UsageError(
            f'The objective "{name}" learns from classes and needs at least 2, but '
            f"the training images have {classes}. Put the images into one folder per "
            f"class, or set `[data] pseudo_classes = 100`."
        )


def required(labels: Labels, name: str, classes: int) -> Int[Tensor, " b"]:
    """Return the class numbers as int64, for the objective called `name`.

    Raises:
        UsageError: the images have no classes.
    """
    if labels is None:
        raise UsageError(
            f'The objective "{name}" needs the class of each image, but the images have '
            f"none. Put them into one folder per class, or set "
            f"`[data] pseudo_classes = {max(classes, 2)}`."
        )
    return labels.long()


def required_below(labels: Labels, name: str, classes: int) -> Int[Tensor, " b"]:
    """Return the class numbers on the CPU, checked; this waits for a GPU.

    Raises:
        UsageError: the images have no classes, or a number is not below `classes`.
    """
    numbers = required(labels, name, classes).cpu()
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < classes:
        raise UsageError(
            f'The objective "{name}" was made for class numbers from 0 to {classes - 1}, '
            f"but got {int(numbers.min())} to {int(numbers.max())}; make it for as many "
            f"classes as the images have."
        )
    return numbers
