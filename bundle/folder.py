"""A folder of images: listed by name, decoded by index, the unreadable ones named."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image
from rich.progress import Progress

from bundle.errors import ImageError, UsageError
from bundle.images import SUFFIXES, ImageLimits, decode
from bundle.preprocessing import Preprocessing

# Beyond this share of unreadable files something is wrong with the folder itself.
UNREADABLE_LIMIT = 0.1

# Local files are the user's own: the limits only keep memory in bounds.
_LIMITS = ImageLimits(bytes=2**30, pixels=250_000_000)

Indices = Int[np.ndarray, " _"]  # of images, or of classes by image


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolder:
    """Images by index, in order of their names.

    The name of the folder an image lies in is its class; fewer than two such names
    mean that there are no classes.
    """

    root: Path
    names: tuple[str, ...]  # relative to root
    classes: tuple[str, ...]  # empty without classes
    class_numbers: tuple[int, ...]

    @classmethod
    def list(cls, root: Path) -> "ImageFolder":
        """List the images below `root`; hidden files are passed over.

        Raises:
            UsageError: there is no such folder, or no image in it.
        """
        if not root.is_dir():
            found = "a file" if root.exists() else "nothing"
            raise UsageError(f"Expected a folder of images at {root}, found {found}.")
        paths = sorted(
            path
            for path in root.rglob("*")
            if path.suffix.lower() in SUFFIXES
            and not _hidden(path.relative_to(root))
            and path.is_file()
        )
        if not paths:
            raise UsageError(
                f"{root} holds no images; expected files ending in "
                f"{', '.join(sorted(SUFFIXES))}, in folders by class or not."
            )
        parents = [path.parent.name for path in paths]
        classes = sorted(set(parents))
        numbers = {name: number for number, name in enumerate(classes)}
        return cls(
            root=root,
            names=tuple(path.relative_to(root).as_posix() for path in paths),
            classes=tuple(classes) if len(classes) > 1 else (),
            class_numbers=tuple(numbers[parent] for parent in parents),
        )

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Image.Image:
        """Return the decoded image.

        Raises:
            UsageError: the file cannot be read as an image.
        """
        path = self.root / self.names[index]
        try:
            return decode(path.read_bytes(), _LIMITS)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error}.") from error
        except ImageError as error:
            raise UsageError(f"{path} {error}") from error

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


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
