"""mahalanobis: distance to the nearest class, absolute and relative to all data."""

from jaxtyping import Float
from torch import Tensor, nn

from export.graph.operations import float32, smallest
from export.graph.scores.score import score_of
from isogon.ood import Gaussians, Mahalanobis, RelativeMahalanobis


class _SquaredDistance(nn.Module):
    """Squared Mahalanobis distance to the nearest class."""

    center: Tensor
    whitening: Tensor
    means: Tensor
    squared_means: Tensor

    def __init__(self, gaussians: Gaussians) -> None:
        super().__init__()
        self.register_buffer("center", float32(gaussians.center))
        self.register_buffer("whitening", float32(gaussians.whitening))
        self.register_buffer("means", float32(gaussians.means))
        self.register_buffer("squared_means", float32((gaussians.means**2).sum(axis=1)))

    def forward(self, embeddings: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        whitened = (embeddings - self.center) @ self.whitening
        squares = (
            (whitened * whitened).sum(dim=1, keepdim=True)
            - 2 * whitened @ self.means.T
            + self.squared_means
        )
        return smallest(squares)


class _Difference(nn.Module):
    """One score minus another."""

    def __init__(self, minuend: nn.Module, subtrahend: nn.Module) -> None:
        super().__init__()
        self.minuend = minuend
        self.subtrahend = subtrahend

    def forward(self, embeddings: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        difference: Tensor = self.minuend(embeddings) - self.subtrahend(embeddings)
        return difference


@score_of.register(Mahalanobis)
def _(detector: Mahalanobis) -> nn.Module:
    return _SquaredDistance(detector.classes)


@score_of.register(RelativeMahalanobis)
def _(detector: RelativeMahalanobis) -> nn.Module:
    return _Difference(
        _SquaredDistance(detector.classes), _SquaredDistance(detector.everything)
    )
