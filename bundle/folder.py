"""A folder of images: listed by name, decoded by index."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bundle.collection import Images, Indices as Indices, decoded, numbered
from bundle.errors import UsageError
from bundle.images import SUFFIXES


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolder(Images):
    """Images that are files of their own: those below a folder, or those of a list."""

    root: Path  # the names are relative to it, or absolute

    @classmethod
    def list(cls, root: Path) -> "ImageFolder":
        """List the images below `root` by name; hidden files are passed over.

        Links are followed, but not back up. One that leads nowhere is an image that
        cannot be read.

        The name of the folder an image lies in is its class; fewer than two such names
        mean that there are no classes.

        Raises:
            UsageError: there is no such folder, or no image in it.
        """
        if not root.is_dir():
            there = "a file" if root.exists() else "nothing"
            raise UsageError(f"Expected a folder of images at {root}, found {there}.")
        found = _below(root, frozenset({os.path.realpath(root)}))
        paths = sorted(found, key=lambda path: path.relative_to(root).as_posix())
        if not paths:
            raise UsageError(
                f"{root} holds no images; expected files ending in "
                f"{', '.join(sorted(SUFFIXES))}, in folders by class or not."
            )
        classes, numbers = numbered([path.parent.name for path in paths])
        return cls(
            where=str(root),
            names=tuple(path.relative_to(root).as_posix() for path in paths),
            classes=classes,
            class_numbers=numbers,
            root=root,
        )

    def image(self, index: int) -> Image.Image:
        """Return the decoded image, RGB and upright.

        Raises:
            UsageError: the file cannot be read as an image.
        """
        path = self.file(index)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error}.") from error
        return decoded(data, str(path), self.range)

    def file(self, index: int) -> Path:
        """Return the image's file."""
        return self.root / self.names[index]

    def files(self) -> Iterable[Path]:
        """Yield each image's file."""
        return (self.root / name for name in self.names)


def _below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Yield the images in a folder and below; `above`: it and those that hold it."""
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            real = os.path.realpath(path)
            if real not in above:
                yield from _below(path, above | {real})
        elif path.suffix.lower() in SUFFIXES and (entry.is_file() or not path.exists()):
            yield path
