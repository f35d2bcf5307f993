"""Which sizes of images a timm model takes, found without weights and without computing.

A model is built on torch's `meta` device, where tensors have shapes and no values, so
that even the largest answers in about a second.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn

from isogon.errors import UsageError
from isogon.networks.architecture import Architecture, architecture_of
from isogon.networks.backbone import TimmModel

_FARTHEST = 64  # pixels, up or down, in which a size that works is looked for


def require_size(name: str, size: int, *, where: str) -> None:
    """Refuse a size that the timm model `name` cannot take, or would cut.

    A convolution into patches that lie side by side leaves out what is less than a patch,
    in silence.

    Args:
        name: a timm name, with or without a source; an unknown one is refused, too.
        size: pixels, height and width.
        where: what sets it, for the message: "`size` in [data]".

    Raises:
        UsageError: it names the nearest sizes that work.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fault:
    """What is wrong with a size."""

    words: str
    unit: int = 2  # those that work are multiples of it


def _first_that_works(known: Architecture, sizes: range) -> int | None:
    return next((size for size in sizes if _fault(known, size) is None), None)


def _fault(known: Architecture, size: int) -> _Fault | None:
    """Return what is wrong with this size; None also where `meta` cannot tell."""
    given = known.arguments | known.sizing((size, size))
    try:
        with torch.device("meta"), torch.no_grad():
            model: TimmModel = timm.create_model(
                known.name, pretrained_cfg=known.source, num_classes=0, **given
            ).eval()
            with _patches_watched(model) as faults:
                model.forward_features(torch.empty(1, 3, size, size))
    except NotImplementedError:  # an operation without shapes alone
        return None
    except (AssertionError, RuntimeError, ValueError) as error:
        return _Fault(words=str(error).rstrip(".") or type(error).__name__)
    return faults[0] if faults else None


@contextmanager
def _patches_watched(model: nn.Module) -> Iterator[list[_Fault]]:
    """Gather what convolutions from pixels into patches side by side would leave out."""
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
