"""Images by index, whatever holds them: one name each, a class if there are classes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image
from rich.progress import Progress

from bundle.errors import UsageError
from bundle.preprocessing import Preprocessing

# Beyond this share of unreadable images something is wrong with the source itself.
UNREADABLE_LIMIT = 0.1

Indices = Int[np.ndarray, " _"]  # of images, or of classes by image


@dataclass(frozen=True, kw_only=True, slots=True)
class Images(ABC):
    """Images by index.

    Instances hold no open files, so that they may be pickled, forked and used by
    several threads.
    """

    where: str  # for messages: the folder, the archive, the list
    names: Sequence[str]  # unique and stable: an image's role depends on its name
    classes: tuple[str, ...]  # sorted; empty without classes
    class_numbers: Sequence[int]  # by image, into `classes`; unused without classes

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Return the decoded image, RGB and upright.

        Raises:
            UsageError: it cannot be read; the message names it.
        """

    def __len__(self) -> int:
        return len(self.names)

    def pixels(
        self, indices: Indices, preprocessing: Preprocessing, progress: Progress
    ) -> UInt8[np.ndarray, "_ h w 3"]:
        """Return these images as every runner sees them."""
        tracked = progress.track(indices, description="Preprocessing")
        return np.stack([preprocessing.pixels(self.image(int(i))) for i in tracked])

    def labels(self, indices: Indices) -> Indices | None:
        """Return the class numbers, or None for images without classes."""
        return np.array(self.class_numbers)[indices] if self.classes else None

    def readable(self, progress: Progress) -> Indices:
        """Return the indices of the images that decode; say which do not.

        Raises:
            UsageError: more than a tenth do not decode.
        """
        faults = {
            index: fault
            for index, fault in progress.track(
                enumerate(self._faults()), len(self), description="Reading images"
            )
            if fault is not None
        }
        if not faults:
            return np.arange(len(self))
        shown = "\n".join(f"  {fault}" for fault in list(faults.values())[:10])
        summary = f"{len(faults)} of {len(self)} images cannot be read:\n{shown}"
        if len(faults) > UNREADABLE_LIMIT * len(self):
            raise UsageError(f"{summary}\nMend or remove them and run again.")
        progress.console.print(f"{summary}\nThey are left out.", markup=False)
        return np.array([i for i in range(len(self)) if i not in faults])

    def _faults(self) -> Iterator[str | None]:
        def fault(index: int) -> str | None:
            try:
                self.image(index)
            except UsageError as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:
            yield from pool.map(fault, range(len(self)))


def numbered(labels: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the sorted classes and each label's number among them.

    Fewer than two classes are none: the first tuple is empty then.
    """
    classes = sorted(set(labels))
    numbers = {name: number for number, name in enumerate(classes)}
    return (
        tuple(classes) if len(classes) > 1 else (),
        tuple(numbers[label] for label in labels),
    )
