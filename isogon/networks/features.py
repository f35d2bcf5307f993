"""What every network here gives for a batch of pixels, and what such a network is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from isogon.images import Preprocessing


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """A batch as a model sees it.

    `tokens[:, 0]` is the class token and the rest are the grid's cells, row by row.
    Where there is nothing but one vector per image, the grid is (0, 0).
    """

    tokens: Float[Tensor, "b n d"]
    grid: tuple[int, int]

    @property
    def pooled(self) -> Float[Tensor, "b d"]:
        """The class token: one vector per image."""
        return self.tokens[:, 0]

    @property
    def cells(self) -> Float[Tensor, "b cells d"]:
        """The tokens of the grid, row by row."""
        return self.tokens[:, 1:]

    def on_grid(self, grid: tuple[int, int]) -> "Features":
        """Return the features with cells resampled to `grid` (bilinear, antialiased).

        For (0, 0) the pooled vectors alone. Half precision is resampled in float32: on
        a CPU there is no other way.
        """
        if self.grid == grid:
            return self
        if grid == (0, 0):
            return self.without_cells()
        dtype = self.tokens.dtype
        cells = self.cells.mT.reshape(len(self.tokens), -1, *self.grid)
        resampled = F.interpolate(
            cells.to(torch.promote_types(dtype, torch.float32)),
            size=grid,
            mode="bilinear",
            antialias=True,
        )
        cells = resampled.flatten(2).mT.to(dtype)
        tokens = torch.cat([self.tokens[:, :1], cells], dim=1)
        return Features(tokens=tokens, grid=grid)

    def cpu(self) -> "Features":
        """Return the features in the host's memory."""
        return Features(tokens=self.tokens.cpu(), grid=self.grid)

    def without_cells(self) -> "Features":
        """Return the pooled vectors alone."""
        return Features(tokens=self.tokens[:, :1], grid=(0, 0))


class FeatureExtractor(nn.Module, ABC):
    """A network that takes uint8 RGB pixels, normalises them itself and gives tokens."""

    width: int  # of the tokens
    grid: tuple[int, int]  # of the images it was made for; (0, 0) without cells
    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel(preprocessing.mean), persistent=False)
        self.register_buffer("std", _per_channel(preprocessing.std), persistent=False)

    def normalised(self, pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        """Return the pixels as the network was trained on them."""
        images = pixels.to(self.mean.dtype).permute(0, 3, 1, 2)  # TensorRT casts uint8 only
        if torch.compiler.is_exporting():
            # Of channels-last maps torch exports a mean as a Gather by Range(batch), at
            # which OpenVINO loses a bias: benchmarks/openvino_bias.py.
            images = images.contiguous()
        return (images / 255 - self.mean) / self.std

    @abstractmethod
    def forward(self, pixels: UInt8[Tensor, "b h w 3"]) -> Features:
        """Return the tokens, class token first."""

    @property
    def plain(self) -> nn.Module:
        """The network as its author made it: what a state dict of it is of."""
        return self

    @property
    def pools_from_map(self) -> bool:
        """Whether it is known that its features are a map, from which it pools."""
        return False

    @property
    def one_sided(self) -> bool:
        """Whether its pooled vectors reach only a corner of all directions."""
        return False


def _per_channel(values: tuple[float, float, float]) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values, dtype=torch.float32).view(3, 1, 1)
