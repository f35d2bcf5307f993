"""Networks of a user's own: `own_networks` in conftest.py copies this file to a folder."""

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Convolutions(nn.Module):
    """Its pooled vectors are never negative."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images).mean((2, 3))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Tokens, class token first, by torch's own encoder."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.places = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 48, dropout=0.1, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.patches(images).flatten(2).mT
        first = self.class_token.expand(images.shape[0], -1, -1)
        tokens = self.blocks(torch.cat([first, cells], 1) + self.places)
        return self.norm(tokens)  # type: ignore[no-any-return]


class Tied(nn.Module):
    """One layer under two names, and a weight that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, 8).to(memory_format=torch.channels_last)
        self.first = nn.Linear(12, 12)
        self.second = self.first

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.patches(images).mean((2, 3))
        return self.second(self.first(pooled).tanh())  # type: ignore[no-any-return]


class OtherInTraining(Transformer):
    """A second output in training, as some published networks have."""

    def forward(self, images: Tensor) -> Tensor:
        tokens = super().forward(images)
        return (tokens, tokens) if self.training else tokens  # type: ignore[return-value]


class Mean(nn.Module):
    """A function of one layer and the images' mean colours."""

    def __init__(self, give: Callable[[nn.Linear, Tensor], object]) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.give = give

    def forward(self, images: Tensor) -> object:
        return self.give(self.layer, images.mean((2, 3)))


def convolutions() -> nn.Module:
    return Convolutions()


def transformer() -> nn.Module:
    return Transformer()


def half() -> nn.Module:
    return Convolutions().bfloat16()


def tied() -> nn.Module:
    return Tied()


def wide() -> nn.Module:
    return Transformer(int(os.environ.get("WIDTH", "24")))


def frozen() -> nn.Module:
    return Transformer().requires_grad_(False)


def detached() -> nn.Module:
    return Mean(lambda layer, means: layer(means).detach())


def by_length() -> nn.Module:
    return Mean(lambda layer, means: layer(means) + torch.zeros(len(means), 1))


def by_value() -> nn.Module:
    return Mean(lambda layer, means: layer(means) if means.sum() > 0 else -layer(means))


def sparse() -> nn.Module:
    network = Transformer()
    network.register_buffer("few", torch.eye(3).to_sparse())
    return network


def trains_otherwise() -> nn.Module:
    return OtherInTraining()


def maps() -> nn.Module:
    return nn.Conv2d(3, 8, 3)


def pairs() -> nn.Module:
    return Mean(lambda _, means: (means, means))


def breaks() -> nn.Module:
    raise OSError("no weights here")


def dictionary() -> dict[str, int]:
    return {}
