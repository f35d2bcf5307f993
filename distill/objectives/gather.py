"""The batch of all processes, for terms that compare its images with one another.

A term is *local* if it is a mean over images: DistributedDataParallel averages
gradients over the R processes, which have batches of one size, and the average of means
is the mean over all. A term is *global* if it compares images, as pairs, columns or
covariances do; it is then computed from `whole_batch`, and every process computes the
same number g(x), x being the gathered batch. Its gradient is right for this reason:

    each process has dg/dx; the backward pass of the gathering sums it over processes,
    so process r receives R dg/dx_r for its own images x_r; through its copy of the
    student that is R dg/dx_r dx_r/dw; the average over r is sum_r dg/dx_r dx_r/dw, which
    is dg/dw of one process with the whole batch.

Weights that act after the gathering get dg/dw on every process, and so on average. The
value of a local term that a process reports is that of its own images.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def whole_batch(features: Float[Tensor, "b d"]) -> Float[Tensor, "whole d"]:
    """Return the features of all processes, in the order of their ranks.

    The gradient goes back to the process that an image belongs to, summed over the
    processes. Every process must call it equally often with a batch of one size. With
    one process, or none initialised, these are the features themselves.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return features
    gathered: Tensor = _Gather.apply(features)
    return gathered


class _Gather(torch.autograd.Function):
    """All-gather whose backward pass sums over processes.

    torch.distributed.nn.functional.all_gather does the same and is deprecated; what
    torch 2.15 names in its place is in a private module and has changed its name.
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
