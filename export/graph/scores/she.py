"""she: inner product with the stored pattern of the predicted class."""

from jaxtyping import Float
from torch import Tensor, nn

from export.graph.operations import float32
from export.graph.scores.logit import Logits
from export.graph.scores.score import score_of
from isogon.ood import She


class _SheScore(nn.Module):
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


@score_of.register(She)
def _(detector: She) -> nn.Module:
    return _SheScore(detector)
