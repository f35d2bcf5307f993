"""The interface of a network that turns pixels into tokens, and the tokens of a batch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from isogon.images import Preprocessing


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """The tokens of a batch of images.

    `tokens[:, 0]` is the class token. The others are the patch tokens ("cells") of the
    grid, row by row. With only one vector per image, the grid is (0, 0).
    """

    tokens: Float[Tensor, "b n d"]
    grid: tuple[int, int]

    @property
    def pooled(self) -> Float[Tensor, "b d"]:
        """The class token: one vector per image."""
        return self.tokens[:, 0]

    @property
    def cells(self) -> Float[Tensor, "b cells d"]:
        """The patch tokens of the grid, row by row."""
        return self.tokens[:, 1:]

    def on_grid(self, grid: tuple[int, int]) -> "Features":
        """Return the features with cells resampled to `grid` (bilinear, antialiased).

        For (0, 0), only the pooled vectors are kept. Half precision is resampled in
        float32, because a CPU cannot do it otherwise.
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
        """Return only the pooled vectors."""
        return Features(tokens=self.tokens[:, :1], grid=(0, 0))


class FeatureExtractor(nn.Module, ABC):
    """A network that takes uint8 RGB pixels, normalises them itself and returns tokens."""

    width: int  # of the tokens
    grid: tuple[int, int]  # for images of its size; (0, 0) without cells
    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel(preprocessing.mean), persistent=False)
        self.register_buffer("std", _per_channel(preprocessing.std), persistent=False)

    def normalised(self, pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        """Return the normalised pixels that the network was trained on."""
        images = pixels.to(self.mean.dtype).permute(0, 3, 1, 2)  # TensorRT casts uint8 only
        if torch.compiler.is_exporting():
            # For channels-last maps torch exports a mean as a Gather by Range(batch), and
            # OpenVINO then loses a bias: benchmarks/openvino_bias.py.
            images = images.contiguous()
        return (images / 255 - self.mean) / self.std

    @abstractmethod
    def forward(self, pixels: UInt8[Tensor, "b h w 3"]) -> Features:
        """Return the tokens, class token first."""

    @property
    def plain(self) -> nn.Module:
        """The author's network, whose state dict is the one that is saved."""
        return self

    @property
    def pools_from_map(self) -> bool:
        """Whether its features are known to be a map, from which it pools."""
        return False

    @property
    def one_sided(self) -> bool:
        """Whether its pooled vectors have no negative values, as after a ReLU."""
        return False


def _per_channel(values: tuple[float, float, float]) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values, dtype=torch.float32).view(3, 1, 1)
