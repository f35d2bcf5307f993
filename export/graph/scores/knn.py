"""knn: distance to the k-th nearest vector of the bank."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from export.graph.operations import float32
from export.graph.scores.score import score_of
from isogon.ood import Knn


class _KnnScore(nn.Module):
    """2 - 2 cos to the k-th nearest vector of the bank; embeddings have unit norm."""

    bank: Tensor

    def __init__(self, detector: Knn) -> None:
        super().__init__()
        self.register_buffer("bank", float32(detector.bank))
        self.k = detector.k

    def forward(self, embeddings: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        cosines = embeddings @ self.bank.T
        return 2 - 2 * torch.topk(cosines, self.k, dim=1).values[:, -1]


@score_of.register(Knn)
def _(detector: Knn) -> nn.Module:
    return _KnnScore(detector)
