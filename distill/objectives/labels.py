"""Class numbers, for the objectives that need them."""

from jaxtyping import Int
from torch import Tensor

from distill.objectives.objective import Labels
from isogon.errors import UsageError


def require_classes(name: str, classes: int) -> None:
    """Raise `UsageError` if the training images have too few classes to learn from."""
    if classes < 2:
        raise UsageError(
            f'The objective "{name}" learns from classes and needs at least 2, but '
            f"the training images have {classes}. Put the images into one folder per "
            f"class, or set `[data] pseudo_classes = 100`."
        )


def required(labels: Labels, name: str, classes: int) -> Int[Tensor, " b"]:
    """Return the class numbers as int64, for the objective called `name`.

    Raises:
        UsageError: there are none.
    """
    if labels is None:
        raise UsageError(
            f'The objective "{name}" needs the class of each image, but the images have '
            f"none. Put them into one folder per class, or set "
            f"`[data] pseudo_classes = {max(classes, 2)}`."
        )
    return labels.long()


def required_below(labels: Labels, name: str, classes: int) -> Int[Tensor, " b"]:
    """Return the class numbers on the CPU, checked; reading them waits for a GPU.

    Raises:
        UsageError: there are none, or some are not below `classes`.
    """
    numbers = required(labels, name, classes).cpu()
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < classes:
        raise UsageError(
            f'The objective "{name}" was made for class numbers from 0 to {classes - 1}, '
            f"but got {int(numbers.min())} to {int(numbers.max())}; make it for as many "
            f"classes as the images have."
        )
    return numbers
