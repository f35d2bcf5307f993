"""A folder of images: listed by name, decoded by index."""

from collections.abc import Iterable
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

        The name of the folder an image lies in is its class; fewer than two such names
        mean that there are no classes.

        Raises:
            UsageError: there is no such folder, or no image in it.
        """
        if not root.is_dir():
            there = "a file" if root.exists() else "nothing"
            raise UsageError(f"Expected a folder of images at {root}, found {there}.")
        found = (
            path
            for path in root.rglob("*")
            if path.suffix.lower() in SUFFIXES
            and not _hidden(path.relative_to(root))
            and path.is_file()
        )
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
        path = self.root / self.names[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error}.") from error
        return decoded(data, str(path))

    def files(self) -> Iterable[Path]:
        """Yield each image's file."""
        return (self.root / name for name in self.names)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
