"""timm's models behind one interface: uint8 pixels in, tokens out, class token first.

`require_size` checks an image size before anything is trained. It builds the model on
torch's `meta` device, where tensors have shapes and no values, so that even the largest
model takes about a second.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float, UInt8
from pydantic import JsonValue
from torch import Tensor, nn

from isogon.errors import UsageError
from isogon.images import Preprocessing
from isogon.networks.architecture import Architecture, architecture_of
from isogon.networks.features import FeatureExtractor, Features

# timm's models have common methods, but no common type that declares them.
TimmModel = Any
_NO_NORM = (nn.Identity, type(None))

# Families with tokens row by row, by their source code, but without a named grid.
_ROW_BY_ROW = frozenset(
    {
        "EfficientFormer",
        "MlpMixer",  # gMLP and ResMLP too
        "MultiScaleVit",
        "TNT",
        "Twins",
        "VOLO",
        "Xcit",
    }
)
_FARTHEST = 64  # pixels up or down within which a valid size is searched


class Backbone(FeatureExtractor):
    """A timm model without its classifier, normalisation included.

    A transformer gives its last tokens after the final norm, without registers. If it has
    no class token, or normalises after pooling, its pooled vector replaces the class token.
    For convolutional networks (and Swin's maps), the patch tokens are the cells of the last
    feature map and the class token is their pooled vector (ConvNeXt's after its norm),
    which extends CosPress (arXiv:2411.15239) to them. A hidden layer between pooling and
    classifier (MobileNetV3 and V4) is removed, because it does not apply to cells.

    Not supported are Hiera, LeViT (LeViT-conv is), PiT, CoaT, CrossViT and NaFlexViT: the
    positions of their tokens are unknown here, or are not of one grid.
    """

    model: TimmModel

    def __init__(self, model: TimmModel, preprocessing: Preprocessing) -> None:
        """Wrap `model` and run it on a black image, in evaluation mode.

        Raises:
            UsageError: the grid of its tokens is unknown.
        """
        super().__init__(preprocessing)
        head_width = getattr(model, "head_hidden_size", None) or model.num_features
        self._pools_in_head = head_width == model.num_features
        if not self._pools_in_head:
            model.prune_intermediate_layers(prune_head=True)
        self.model = model
        self.width: int = model.num_features
        size = (preprocessing.height, preprocessing.width)
        with torch.no_grad():
            tried = self.eval()(torch.zeros(1, *size, 3, dtype=torch.uint8))
        self.grid = tried.grid

    def forward(self, pixels: UInt8[Tensor, "b h w 3"]) -> Features:
        """Return the tokens of uint8 RGB pixels."""
        features = self.model.forward_features(self.normalised(pixels))
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            raise self._no_grid()
        if features.ndim == 4:
            return self._from_map(features)
        return self._from_sequence(features, (pixels.shape[1], pixels.shape[2]))

    @property
    def plain(self) -> nn.Module:
        """The timm model."""
        plain: nn.Module = self.model
        return plain

    @property
    def one_sided(self) -> bool:
        """Whether it pools from a map: such vectors usually have no negative values."""
        return self.pools_from_map

    @property
    def pools_from_map(self) -> bool:
        """Whether its features are a map, as in convolutional networks and Swin."""
        return not (hasattr(self.model, "num_prefix_tokens") or self._row_by_row)

    @property
    def _row_by_row(self) -> bool:
        return type(self.model).__name__ in _ROW_BY_ROW

    def _from_map(self, features: Float[Tensor, "b _ _ _"]) -> Features:
        channels_last = features
        if getattr(self.model, "output_fmt", "NCHW") != "NHWC":
            channels_last = features.permute(0, 2, 3, 1)
        cells = channels_last.flatten(1, 2)
        if self._pools_in_head:
            pooled = self.model.forward_head(features, pre_logits=True)[:, None]
        else:
            pooled = cells.mean(dim=1, keepdim=True)
        return Features(
            tokens=torch.cat([pooled, cells], dim=1),
            grid=(channels_last.shape[1], channels_last.shape[2]),
        )

    def _from_sequence(
        self, features: Float[Tensor, "b n d"], size: tuple[int, int]
    ) -> Features:
        has_class_token = getattr(self.model, "cls_token", None) is not None
        prefix = getattr(self.model, "num_prefix_tokens", None)
        grid = getattr(getattr(self.model, "patch_embed", None), "grid_size", None)
        if self._row_by_row:
            prefix = int(has_class_token)
            stride = self.model.feature_info[-1]["reduction"]
            grid = -(-size[0] // stride), -(-size[1] // stride)
        if prefix is None or grid is None:
            raise self._no_grid()
        cells = features[:, prefix:]
        if cells.shape[1] != grid[0] * grid[1]:
            raise self._no_grid()
        normed_later = not isinstance(getattr(self.model, "fc_norm", None), _NO_NORM)
        if has_class_token and not normed_later:
            pooled = features[:, :1]
        else:
            pooled = self.model.forward_head(features, pre_logits=True)[:, None]
        tokens = torch.cat([pooled, cells], dim=1)
        return Features(tokens=tokens, grid=(grid[0], grid[1]))

    def _no_grid(self) -> UsageError:
        return UsageError(
            f"{type(self.model).__name__} gives tokens whose grid is unknown. "
            f"Choose a ViT (with or without class token) or a convolutional network."
        )


def timm_model(
    name: str,
    *,
    size: tuple[int, int],
    classes: int = 0,
    pretrained: bool = False,
    file: Path | None = None,
    state: dict[str, Any] | None = None,
    arguments: Mapping[str, JsonValue] | None = None,
) -> TimmModel:
    """Return the timm model `name` for images of `size`.

    Args:
        name: a timm name, with or without tag, or with a source (`hf-hub:`,
            `local-dir:`).
        size: (height, width) in pixels.
        classes: outputs of its classifier; 0 leaves it out.
        pretrained: whether to load weights, timm's own or those in `file`.
        file: a local state dict to load instead of timm's.
        state: weights to load instead of `file`, which is then not read.
        arguments: for timm, besides those of the name's source.

    Raises:
        UsageError: timm has no such model, or it does not take this size.
    """
    known = architecture_of(name)
    given = {**known.arguments, **(arguments or {}), **known.sizing(size)}
    overlay: dict[str, Any] | None = None
    if file is not None or state is not None:
        overlay = {"num_classes": classes, "source": "", "custom_load": False}
        overlay |= {"file": str(file)} if state is None else {"state_dict": state}
    try:
        model = timm.create_model(
            known.name,
            pretrained,
            pretrained_cfg=known.source,
            pretrained_cfg_overlay=overlay,
            num_classes=classes,
            **given,
        )
    except AssertionError as error:
        raise _wrong_size(name, size, error) from error
    _require_size(model, name, size)
    return model


def require_size(name: str, size: int, *, where: str) -> None:
    """Refuse an image size that the timm model `name` cannot take, or would crop.

    A convolution into adjacent patches silently ignores a remainder smaller than a patch.

    Args:
        name: a timm name, with or without a source; an unknown one is refused too.
        size: height and width in pixels.
        where: the setting, for the message: "`size` in [data]".

    Raises:
        UsageError: the model does not take it; the message names the nearest valid sizes.
    """
    known = architecture_of(name)
    fault = _fault(known, size)
    if fault is None:
        return
    unit = fault.unit
    below = range((size - 1) // unit * unit, max(0, size - _FARTHEST), -unit)
    above = range((size // unit + 1) * unit, size + _FARTHEST + 1, unit)
    sizes = [_first_that_works(known, candidates) for candidates in (below, above)]
    working = " and ".join(str(found) for found in sizes if found is not None)
    remedy = f"The nearest that work: {working}. Change" if working else "Choose another"
    raise UsageError(
        f"{name} does not take images of {size} x {size} pixels: {fault.words}. {remedy} "
        f"{where}."
    )


def _require_size(model: TimmModel, name: str, size: tuple[int, int]) -> None:
    """Run one black image of this size; timm checks the size only then."""
    try:
        with torch.no_grad():
            model.eval().forward_features(torch.zeros(1, 3, *size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _wrong_size(name, size, error) from error


def _wrong_size(name: str, size: tuple[int, int], error: Exception) -> UsageError:
    return UsageError(
        f"{name} does not take images of {size[0]} x {size[1]} pixels: {error}. "
        f"Choose another `size`; transformers need a multiple of their patch size."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fault:
    """Why a size is not valid."""

    words: str
    unit: int = 2  # valid sizes are multiples of it


def _fault(known: Architecture, size: int) -> _Fault | None:
    """Return why this size is not valid; None if it is, or if `meta` cannot check it."""
    given = known.arguments | known.sizing((size, size))
    try:
        with torch.device("meta"), torch.no_grad():
            model: TimmModel = timm.create_model(
                known.name, pretrained_cfg=known.source, num_classes=0, **given
            ).eval()
            with _patches_watched(model) as faults:
                model.forward_features(torch.empty(1, 3, size, size))
    except NotImplementedError:  # an operation that `meta` does not have
        return None
    except (AssertionError, RuntimeError, ValueError) as error:
        return _Fault(words=str(error).rstrip(".") or type(error).__name__)
    return faults[0] if faults else None


def _first_that_works(known: Architecture, sizes: range) -> int | None:
    return next((size for size in sizes if _fault(known, size) is None), None)


@contextmanager
def _patches_watched(model: nn.Module) -> Iterator[list[_Fault]]:
    """Collect the remainders that convolutions from pixels into patches would ignore."""
    faults: list[_Fault] = []

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv2d)
        pixels, patch = inputs[0].shape[-1], layer.kernel_size[-1]
        if pixels % patch:
            words = (
                f"its patches of {patch} pixels would leave out the last {pixels % patch}"
            )
            faults.append(_Fault(words=words, unit=patch))

    hooks = [
        layer.register_forward_pre_hook(watch)
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d)
        and layer.in_channels == 3
        and layer.kernel_size == layer.stride
    ]
    try:
        yield faults
    finally:
        for hook in hooks:
            hook.remove()
