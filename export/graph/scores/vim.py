"""residual and vim: distance from the principal subspace, alone and with the energy."""

from jaxtyping import Float
from torch import Tensor, nn

from export.graph.operations import float32, length, log_sum_exp
from export.graph.scores.logit import Logits
from export.graph.scores.score import score_of
from isogon.ood import Residual, Vim


class _ResidualScore(nn.Module):
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


class _VimScore(nn.Module):
    """alpha times the residual, minus the energy."""

    def __init__(self, detector: Vim) -> None:
        super().__init__()
        self.logits = Logits(detector.probe)
        self.residual = _ResidualScore(detector.residual)
        self.alpha = detector.alpha

    def forward(self, embeddings: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Return the scores of embeddings."""
        energy = log_sum_exp(self.logits(embeddings))
        score: Tensor = self.alpha * self.residual(embeddings) - energy
        return score


@score_of.register(Residual)
def _(detector: Residual) -> nn.Module:
    return _ResidualScore(detector)


@score_of.register(Vim)
def _(detector: Vim) -> nn.Module:
    return _VimScore(detector)
