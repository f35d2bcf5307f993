"""Which weights of a timm model a file fills: timm itself lets some stay random."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from isogon.errors import UsageError
from isogon.networks import TimmModel, architecture_of, timm_model

State = dict[str, Any]

_NAMED = 5  # weights that a message names
# Buffers that are learnt; others are constants, which checkpoints may leave out.
_STATISTICS = ("running_mean", "running_var")
# The last norm, which some checkpoints (ConvNeXt's `fcmae`) lack: as made, it scales by 1.
_LAST_NORMS = ("head.norm.", "fc_norm.", "norm.")


def require_filled(
    model: TimmModel,
    name: str,
    state: State,
    *,
    size: tuple[int, int],
    classes: int,
    where: str,
) -> None:
    """Refuse a checkpoint that leaves a part of the model as it was made: random.

    timm loads strictly, but not for every model (`dla46_c`, ConvNeXt's `fcmae`, SigLIP),
    and it may rename or resize what it reads. So a copy of the checkpoint that holds
    nothing but NaN is loaded the same way: what is not NaN then was not filled.

    Args:
        model: as timm has filled it, its classifier included.
        name: of the model.
        state: what the checkpoint holds.
        size: (height, width) of the images.
        classes: outputs of the classifier.
        where: the checkpoint, for messages.

    Raises:
        UsageError: no weight was filled, or some were not; the classifier's and the last
            norm's need not be.
    """
    wanted = {key: value for key, value in _learnt(model, name)}
    if all(_shape(state.get(key)) == value.shape for key, value in wanted.items()):
        return  # under timm's own names; by far the most
    poisoned = timm_model(
        name, size=size, classes=classes, pretrained=True, state=_nothing_but_nan(state)
    )
    empty = [key for key, value in _learnt(poisoned, name) if not value.isnan().all()]
    if all(key.startswith(_LAST_NORMS) for key in empty):
        return
    filled = len(wanted) - len(empty)
    named = ", ".join(empty[:_NAMED]) + (", …" if len(empty) > _NAMED else "")
    theirs = ", ".join(islice((key for key in state if "num_batches" not in key), _NAMED))
    raise UsageError(
        f"{where} fills {filled or 'none'} of the {len(wanted)} weights of timm's {name}, "
        f"and the rest would stay random: {named}. It holds {len(state)} entries, such as "
        f"{theirs or 'none'}. Expected a state dict (.safetensors or .pth) of this "
        f"architecture; is it of another model, or inside another dictionary?"
    )


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


def _nothing_but_nan(state: State) -> State:
    return {
        key: torch.full_like(value, torch.nan)
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for key, value in state.items()
    }


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, torch.Tensor) else None
