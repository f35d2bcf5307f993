"""The detectors that see a linear probe's logits, as torch modules for the graph."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from export.graph.constants import float32
from export.graph.reductions import length, log_sum_exp
from isogon.ood import GEN_CLASSES, GEN_GAMMA, LinearProbe, NnGuide, Residual, She, Vim


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
        # Rounding may lift the second of two equal classes above 1/2, by an ulp.
        rest = torch.log(1 - torch.exp(chosen[:, 1:]))
        first = log_sum_exp(ordered[:, 1:])[:, None] - total
        others = torch.cat([first, rest], dim=1)
        return torch.exp(GEN_GAMMA * (chosen + others)).sum(dim=1)


class ResidualScore(nn.Module):
    """|N^T f - N^T u|, with N^T u computed beforehand in float64."""

    complement: Tensor
    offset: Tensor

    def __init__(self, detector: Residual) -> None:
        super().__init__()
        self.register_buffer("complement", float32(detector.complement))
        self.register_buffer("offset", float32(detector.origin @ detector.complement))

    def forward(self, embeddings: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Return the scores of embeddings."""
        outside = embeddings @ self.complement - self.offset
        return length(outside)


class VimScore(nn.Module):
    """alpha times the residual, minus the energy."""

    def __init__(self, detector: Vim) -> None:
        super().__init__()
        self.logits = Logits(detector.probe)
        self.residual = ResidualScore(detector.residual)
        self.alpha = detector.alpha

    def forward(self, embeddings: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Return the scores of embeddings."""
        energy = log_sum_exp(self.logits(embeddings))
        score: Tensor = self.alpha * self.residual(embeddings) - energy
        return score


class SheScore(nn.Module):
    """-<f, m_y> of the predicted class y."""

    patterns: Tensor

    def __init__(self, detector: She) -> None:
        super().__init__()
        self.logits = Logits(detector.probe)
        self.register_buffer("patterns", float32(detector.patterns))

    def forward(self, embeddings: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Return the scores of embeddings."""
        predicted = self.logits(embeddings).argmax(dim=1, keepdim=True)
        return -(embeddings @ self.patterns.T).gather(1, predicted)[:, 0]


class NnGuideScore(nn.Module):
    """-E(f) times the mean of the k largest E_j cos(f, f_j); f is unit norm already."""

    guides: Tensor

    def __init__(self, detector: NnGuide) -> None:
        super().__init__()
        self.logits = Logits(detector.probe)
        self.register_buffer("guides", float32(detector.guides))
        self.k = detector.k

    def forward(self, embeddings: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Return the scores of embeddings."""
        energy = log_sum_exp(self.logits(embeddings))
        guidance = torch.topk(embeddings @ self.guides.T, self.k, dim=1).values
        return -energy * guidance.mean(dim=1)
