"""Symmetric SNE on cosines: do two sets of vectors have the same neighbours?

With cosines D, p_{j|i} = softmax_j(D_ij / tau) over j != i and
P_ij = (p_{j|i} + p_{i|j}) / 2n, the divergence is
K_tau = sum_ij P_ij (log P_ij - log Q_ij).
Each row of p sums to one, so 2n is the exact normaliser of the joint.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from distill.objectives.terms import precise

# Numbers per matrix and pass, so that a few images at a time stay in a CPU's cache.
_CACHED = 2**18


def sne_divergence(
    target: Float[Tensor, "*sets n d"],
    learned: Float[Tensor, "*sets n e"],
    temperatures: tuple[float, ...],
) -> Float[Tensor, "*sets"]:
    """Return K_tau averaged over the temperatures, one value per set of n vectors.

    Only `learned` receives a gradient. Cosines are computed in at least float32, also
    under autocast: in float16 their rounding error at tau = 0.01 is 0.05 logit.
    """
    if target.shape[-2] < 2:
        raise ValueError(
            f"SNE compares neighbours and needs at least 2 vectors in a set, got "
            f"{target.shape[-2]}; use a larger batch or image."
        )
    with torch.autocast(target.device.type, enabled=False):
        divergence: Tensor = _SneDivergence.apply(
            cosines(target.detach()), cosines(learned), temperatures
        )
    return divergence


def cosines(vectors: Float[Tensor, "*sets n d"]) -> Float[Tensor, "*sets n n"]:
    """Return all pairwise cosines, in at least float32."""
    directions = F.normalize(precise(vectors), dim=-1)
    return directions @ directions.mT


class _SneDivergence(torch.autograd.Function):
    """K and its gradient in one pass per temperature; only dK/dD is kept.

    D is symmetric, so with a_i = log sum_k exp(D_ik / tau) of the target and b_i of the
    learned cosines, log 2n P_ij = D_ij / tau - a_i + softplus(a_i - a_j), and
    q_{j|i} / Q_ij = 2n sigmoid(b_j - b_i) does not depend on D_ij at all. Hence

        K = sum_ij P_ij [(D^t_ij - D^z_ij) / tau + b_i - a_i
                         + softplus(a_i - a_j) - softplus(b_i - b_j)]
        dK/dD^z_ij = (q_{j|i} sum_k r_ik - r_ij) / (n tau)
        r_ij = 2n P_ij sigmoid(b_j - b_i)

    Probabilities reach e^-200 at tau = 0.01 and may underflow to 0. They are used only as
    factors, never in a logarithm, so the error is below 1e-36.
    """

    @staticmethod
    def forward(
        ctx: Any,
        target: Float[Tensor, "*sets n n"],
        learned: Float[Tensor, "*sets n n"],
        temperatures: tuple[float, ...],
    ) -> Float[Tensor, "*sets"]:
        n = target.shape[-1]
        gradient = torch.empty_like(learned)
        value = target.new_empty(target.shape[:-2])
        matrices = [part.reshape(-1, n, n) for part in (target, learned, gradient)]
        values = value.reshape(-1, 1, 1)
        step = len(values) if target.is_cuda else max(1, _CACHED // (n * n))
        for first in range(0, len(values), step):
            chunk = slice(first, first + step)
            before, after, slope = (matrix[chunk] for matrix in matrices)
            _divergence(before, after, slope, values[chunk], temperatures)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, gradient * upstream[..., None, None], None


def _divergence(
    target: Float[Tensor, "sets n n"],
    learned: Float[Tensor, "sets n n"],
    gradient: Float[Tensor, "sets n n"],
    value: Float[Tensor, "sets 1 1"],
    temperatures: tuple[float, ...],
) -> None:
    """Write the mean of K over the temperatures to `value`, of dK/dD to `gradient`."""
    n = target.shape[-1]
    diagonal = torch.eye(n, dtype=torch.bool, device=target.device)
    difference = target - learned
    gradient.zero_()
    value.zero_()
    for temperature in temperatures:
        p, a = _conditional(target, temperature, diagonal)
        q, b = _conditional(learned, temperature, diagonal)
        joint = p.add_(p.mT.clone()).div_(2 * n)
        gap = a - a.mT
        bracket = F.softplus(gap).sub_(F.softplus(torch.sub(b, b.mT, out=gap)))
        bracket.add_(difference, alpha=1 / temperature).add_(b - a).mul_(joint)
        value += bracket.sum(dim=(-2, -1), keepdim=True)
        r = gap.neg_().sigmoid_().mul_(joint).mul_(2 * n)
        q.mul_(r.sum(dim=-1, keepdim=True)).sub_(r)
        gradient.add_(q, alpha=1 / (n * temperature))
    gradient.div_(len(temperatures))
    value.div_(len(temperatures))


def _conditional(
    cosine: Float[Tensor, "sets n n"], temperature: float, diagonal: Tensor
) -> tuple[Float[Tensor, "sets n n"], Float[Tensor, "sets n 1"]]:
    """Return p_{j|i} and log sum_k exp(cosine_ik / temperature), k != i."""
    logits = (cosine / temperature).masked_fill_(diagonal, -math.inf)
    largest = logits.amax(dim=-1, keepdim=True)
    weights = logits.sub_(largest).exp_()
    total = weights.sum(dim=-1, keepdim=True)
    return weights.div_(total), largest.add_(total.log())
