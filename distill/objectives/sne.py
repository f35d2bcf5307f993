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


def sne_divergence(
    target: Float[Tensor, "*sets n d"],
    learned: Float[Tensor, "*sets n e"],
    temperatures: tuple[float, ...],
) -> Float[Tensor, "*sets"]:
    """Return K_tau averaged over the temperatures, one value per set of n vectors.

    Only `learned` receives a gradient. Cosines are taken in at least float32, also
    under autocast: in float16 their rounding at tau = 0.01 is 0.05 logit.
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
    precise = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    directions = F.normalize(precise, dim=-1)
    return directions @ directions.mT


class _SneDivergence(torch.autograd.Function):
    """K and its gradient in one pass per temperature; only dK/dD is kept.

    With q and Q of the learned cosines D,
    dK_tau/dD_ij = (q_{j|i} sum_k r_ik - r_ij) / (n tau), r_ij = q_{j|i} P_ij / Q_ij.
    Probabilities reach e^-200 at tau = 0.01, so r is formed as
    exp(log q + log P - log Q), which is at most 2n P.
    """

    @staticmethod
    def forward(
        ctx: Any,
        target: Float[Tensor, "*sets n n"],
        learned: Float[Tensor, "*sets n n"],
        temperatures: tuple[float, ...],
    ) -> Float[Tensor, "*sets"]:
        n = target.shape[-1]
        diagonal = torch.eye(n, dtype=torch.bool, device=target.device)
        total = torch.zeros(target.shape[:-2], dtype=target.dtype, device=target.device)
        gradient = torch.zeros_like(learned)
        for temperature in temperatures:
            log_p = _log_joint(_log_conditional(target, temperature, diagonal))
            log_q = _log_conditional(learned, temperature, diagonal)
            log_ratio = (log_p - _log_joint(log_q)).masked_fill_(diagonal, 0)
            total += (log_p.exp() * log_ratio).sum(dim=(-2, -1))
            r = (log_q + log_ratio).exp()  # 0 on the diagonal, where log_q is -inf
            row = log_q.exp() * r.sum(dim=-1, keepdim=True)
            gradient += (row - r) / (n * temperature)
        ctx.save_for_backward(gradient / len(temperatures))
        return total / len(temperatures)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, gradient * upstream[..., None, None], None


def _log_conditional(
    cosine: Float[Tensor, "*sets n n"], temperature: float, diagonal: Tensor
) -> Float[Tensor, "*sets n n"]:
    return F.log_softmax((cosine / temperature).masked_fill_(diagonal, -math.inf), dim=-1)


def _log_joint(
    log_conditional: Float[Tensor, "*sets n n"],
) -> Float[Tensor, "*sets n n"]:
    n = log_conditional.shape[-1]
    return torch.logaddexp(log_conditional, log_conditional.mT) - math.log(2 * n)
