"""A user's own network behind the same interface, its shapes checked."""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from isogon.errors import UsageError
from isogon.images import Preprocessing
from isogon.networks.features import FeatureExtractor, Features
from isogon.networks.importing import said

_EXPECTED = (
    "Expected float images [b, 3, h, w] in, and out either embeddings [b, d] or tokens "
    "[b, n, d], class token first."
)


class ImportedNetwork(FeatureExtractor):
    """Any `nn.Module` from normalised float images [b, 3, h, w] to features.

    It returns embeddings [b, d], or tokens [b, n, d] with the class token first and the
    cells of a grid after it, row by row. The grid is the module's attribute `grid`
    (rows, columns), or the square that n - 1 cells fill.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        """Wrap `network` and try it on a black image and noise, in evaluation mode.

        It gets its images in the type of its own weights and may answer in any; what
        goes on from here is float32.

        Raises:
            UsageError: it does not take the images, or gives another shape.
        """
        super().__init__(preprocessing)
        self.network = network.eval()
        tried = self._tried((preprocessing.height, preprocessing.width))
        self.width: int = tried.tokens.shape[2]
        self.grid = tried.grid
        self._one_sided = bool((tried.pooled >= 0).all())

    def forward(self, pixels: UInt8[Tensor, "b h w 3"]) -> Features:
        """Return the network's tokens of uint8 RGB pixels."""
        output = self.network(self.normalised(pixels).to(self._dtype))
        if not isinstance(output, Tensor):
            raise self._wrong(f"a {type(output).__name__}")
        if output.ndim not in (2, 3) or output.shape[0] != pixels.shape[0]:
            raise self._wrong(f"{list(output.shape)} for {len(pixels)} images")
        if not output.is_floating_point():
            raise self._wrong(f"values of {output.dtype}")
        if output.dtype != torch.float32:
            output = output.float()
        if output.ndim == 2:
            return Features(tokens=output[:, None], grid=(0, 0))
        return Features(tokens=output, grid=self._grid(output))

    @property
    def plain(self) -> nn.Module:
        """The network without normalisation."""
        return self.network

    @property
    def one_sided(self) -> bool:
        """Whether no value of its embeddings was negative when it was tried."""
        return self._one_sided

    def _tried(self, size: tuple[int, int]) -> Features:
        """Return what it makes of two images; find the type in which it takes them."""
        noise = torch.Generator().manual_seed(0)
        pixels = torch.zeros(2, *size, 3, dtype=torch.uint8)
        pixels[1].random_(0, 256, generator=noise)
        failures: list[Exception] = []
        for dtype in _dtypes(self.network):
            self._dtype = dtype
            try:
                with torch.no_grad():
                    tried: Features = self(pixels)
            except UsageError:
                raise
            except Exception as error:  # whatever a network of the user's own raises
                failures.append(error)
            else:
                return tried
        raise UsageError(
            f"{type(self.network).__name__} failed on two images of {size[0]} x {size[1]} "
            f"pixels: {said(failures[0])}. {_EXPECTED}"
        ) from failures[0]

    def _grid(self, tokens: Float[Tensor, "b n d"]) -> tuple[int, int]:
        cells = tokens.shape[1] - 1
        side = math.isqrt(max(cells, 0))
        rows, columns = getattr(self.network, "grid", (side, side))
        if cells < 0 or rows * columns != cells:
            raise self._wrong(
                f"{list(tokens.shape)}, whose {cells} cells do not fill a grid of "
                f"{rows} x {columns} (give the module an attribute `grid`)"
            )
        return int(rows), int(columns)

    def _wrong(self, found: str) -> UsageError:
        return UsageError(f"{type(self.network).__name__} gave {found}. {_EXPECTED}")


def _dtypes(network: nn.Module) -> list[torch.dtype]:
    """Return the types of a network's weights in their order, and float32."""
    found = [weight.dtype for weight in network.parameters() if weight.is_floating_point()]
    return list(dict.fromkeys([*found, torch.float32]))
