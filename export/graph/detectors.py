"""The numpy detectors of `isogon.ood`, as torch modules for the graph."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from export.graph.constants import float32
from export.graph.probe_detectors import (
    EnergyScore,
    GenScore,
    Logits,
    MaxLogitScore,
    MspScore,
    NnGuideScore,
    ResidualScore,
    SheScore,
    VimScore,
)
from export.graph.reductions import smallest
from isogon.ood import (
    Detector,
    Energy,
    Gaussians,
    Gen,
    Knn,
    Mahalanobis,
    MaxLogit,
    Msp,
    NnGuide,
    RelativeMahalanobis,
    Residual,
    She,
    Vim,
)


class _KnnScore(nn.Module):
    """2 - 2 cos to the k-th nearest of the bank; embeddings are unit norm already."""

    bank: Tensor

    def __init__(self, detector: Knn) -> None:
        super().__init__()
        self.register_buffer("bank", float32(detector.bank))
        self.k = detector.k

    def forward(self, embeddings: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        cosines = embeddings @ self.bank.T
        return 2 - 2 * torch.topk(cosines, self.k, dim=1).values[:, -1]


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


def module_from_detector(detector: Detector) -> nn.Module:
    """Return a module from embeddings [b, d] to the detector's scores [b], float32."""
    match detector:
        case Knn():
            return _KnnScore(detector)
        case Mahalanobis():
            return _SquaredDistance(detector.classes)
        case RelativeMahalanobis():
            return _Difference(
                _SquaredDistance(detector.classes),
                _SquaredDistance(detector.everything),
            )
        case Residual():
            return ResidualScore(detector)
        case Vim():
            return VimScore(detector)
        case Msp():
            return nn.Sequential(Logits(detector.probe), MspScore())
        case MaxLogit():
            return nn.Sequential(Logits(detector.probe), MaxLogitScore())
        case Energy():
            return nn.Sequential(Logits(detector.probe), EnergyScore())
        case Gen():
            return nn.Sequential(Logits(detector.probe), GenScore())
        case She():
            return SheScore(detector)
        case NnGuide():
            return NnGuideScore(detector)
        case _:
            raise TypeError(f"No graph is known for {type(detector).__name__}.")
