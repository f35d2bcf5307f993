"""A folder of images: listed by name, decoded by index."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from isogon.errors import UsageError
from isogon.images.classes import ClassChoice, classes_by_folder
from isogon.images.collection import (
    SOURCES,
    Images,
    Indices as Indices,
    PassedOver,
    decoded,
    no_images,
)
from isogon.images.formats import HEAD, SUFFIXES, image_format

# Why a file is skipped.
HIDDEN, OTHER, CLOSED = "hidden", "not images", "folders without permission"

# Folders that macOS, Windows and network drives make for themselves, in lower case.
_OF_SYSTEMS = frozenset(
    {"__macosx", "$recycle.bin", "system volume information", "lost+found", "@eadir",
     "#recycle", "#snapshot", "@recycle", "@recently-snapshot"}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolder(Images):
    """Images that are separate files: those below a folder, or those of a list."""

    root: Path  # the names are relative to it, or absolute

    @classmethod
    def list(cls, root: Path, choice: ClassChoice | None = None) -> "ImageFolder":
        """List the images below `root` by name.

        A file is an image if it has an image's suffix or begins like an image. If it does
        not decode, it counts as unreadable. Hidden files and files of other kinds are
        counted.

        Links are followed, but not to a folder above. A broken link with an image's suffix
        is an unreadable image.

        Args:
            root: the folder.
            choice: which level of folders the classes are; None: see `classes_by_folder`.

        Raises:
            UsageError: there is no such folder, no image in it, or no such level.
        """
        if not root.is_dir():
            there = "a file" if root.exists() else "nothing"
            raise UsageError(f"Expected a folder of images at {root}, found {there}.")
        choice = choice or ClassChoice()
        choice.require_no_column(str(root))
        found = _Found(root)
        found.look_below(root, frozenset({os.path.realpath(root)}))
        passed_over = PassedOver.of(found.passed_over)
        if not found.names:
            raise no_images(str(root), passed_over)
        names = tuple(sorted(found.names))
        classes = classes_by_folder(names, choice.level, str(root))
        if not classes.names and (lists := found.lists()):
            classes = replace(
                classes,
                origin=f"{classes.origin}; if {lists[0]} names them, write "
                f"{root / lists[0]} in place of the folder",
            )
        return cls(
            where=str(root),
            names=names,
            classes=classes.names,
            class_numbers=classes.numbers,
            class_words=classes.sentence,
            passed_over=passed_over,
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


class _Found:
    """The images and the skipped files below a folder, by name relative to it."""

    def __init__(self, root: Path) -> None:
        self._start = len(os.path.join(root, ""))  # noqa: PTH118  # of the relative names
        self.names: list[str] = []
        self.passed_over: dict[str, list[str]] = {}  # by reason

    def look_below(self, folder: Path, above: frozenset[str]) -> None:
        """List a folder; `above` has its resolved path and those of its parents."""
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if is_hidden(entry.name):
                self._pass_over(entry, HIDDEN)
            elif entry.is_dir():
                real = os.path.realpath(entry.path)
                if real in above:
                    continue
                try:
                    self.look_below(Path(entry.path), above | {real})
                except PermissionError:
                    self._pass_over(entry, CLOSED)
            elif _is_image(entry):
                self.names.append(entry.path[self._start :])
            else:
                self._pass_over(entry, OTHER)

    def lists(self) -> list[str]:
        """Return the skipped files that may be lists of images, the outermost first."""
        names = self.passed_over.get(OTHER, [])
        found = [name for name in names if name.lower().endswith(SOURCES)]
        return sorted(found, key=lambda name: name.count("/"))

    def _pass_over(self, entry: os.DirEntry[str], reason: str) -> None:
        self.passed_over.setdefault(reason, []).append(entry.path[self._start :])


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or a folder that a system makes."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Decide by the suffix, else by the first bytes, which take 18 µs to read."""
    named = Path(entry.name).suffix.lower() in SUFFIXES
    if not entry.is_file():
        return named and not Path(entry.path).exists()  # a broken link
    if named:
        return True
    try:
        with open(entry.path, "rb", buffering=0) as file:  # noqa: PTH123  # twice as fast
            return image_format(file.read(HEAD)) is not None
    except OSError:
        return False
