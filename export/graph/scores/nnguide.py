"""nnguide: the energy times the guidance of the nearest bank embeddings."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from export.graph.operations import float32, log_sum_exp
from export.graph.scores.logit import Logits
from export.graph.scores.score import score_of
from isogon.ood import NnGuide


class _NnGuideScore(nn.Module):
    """-E(f) times the mean of the k largest E_j cos(f, f_j); f has unit norm."""

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


@score_of.register(NnGuide)
def _(detector: NnGuide) -> nn.Module:
    return _NnGuideScore(detector)
