"""msp, max_logit, energy and gen: detectors on the logits of a linear probe."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from export.graph.operations import float32, log_sum_exp
from export.graph.scores.score import score_of
from isogon.ood import GEN_CLASSES, GEN_GAMMA, Energy, Gen, LinearProbe, MaxLogit, Msp


class Logits(nn.Module):
    """W f + c."""

    weight: Tensor
    bias: Tensor

    def __init__(self, probe: LinearProbe) -> None:
        super().__init__()
        self.register_buffer("weight", float32(probe.weight))
        self.register_buffer("bias", float32(probe.bias))

    def forward(self, embeddings: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        """Return the class logits."""
        return embeddings @ self.weight.T + self.bias


class MspScore(nn.Module):
    """-max softmax."""

    def forward(self, logits: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
        """Return the scores of logits."""
        return -torch.softmax(logits, dim=1).amax(dim=1)


class MaxLogitScore(nn.Module):
    """-max l."""

    def forward(self, logits: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
        """Return the scores of logits."""
        return -logits.amax(dim=1)


class EnergyScore(nn.Module):
    """-logsumexp l."""

    def forward(self, logits: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
        """Return the scores of logits."""
        return -log_sum_exp(logits)


class GenScore(nn.Module):
    """Sum over the 100 largest p of (p (1 - p))^0.1, from log p and log (1 - p).

    1 - p of the most probable class is the sum of the others, because float32 has no
    1 - p below 6e-8; the other p are at most 1/2.
    """

    def forward(self, logits: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
        """Return the scores of logits."""
        ordered = torch.topk(logits, logits.shape[1], dim=1).values
        total = log_sum_exp(ordered)[:, None]
        chosen = ordered[:, :GEN_CLASSES] - total
        # With two equal classes, rounding may put the second above 1/2 by one ulp.
        rest = torch.log(1 - torch.exp(chosen[:, 1:]))
        first = log_sum_exp(ordered[:, 1:])[:, None] - total
        others = torch.cat([first, rest], dim=1)
        return torch.exp(GEN_GAMMA * (chosen + others)).sum(dim=1)


@score_of.register(Msp)
def _(detector: Msp) -> nn.Module:
    return nn.Sequential(Logits(detector.probe), MspScore())


@score_of.register(MaxLogit)
def _(detector: MaxLogit) -> nn.Module:
    return nn.Sequential(Logits(detector.probe), MaxLogitScore())


@score_of.register(Energy)
def _(detector: Energy) -> nn.Module:
    return nn.Sequential(Logits(detector.probe), EnergyScore())


@score_of.register(Gen)
def _(detector: Gen) -> nn.Module:
    return nn.Sequential(Logits(detector.probe), GenScore())
