"""The sources of a recipe's images: opened, listed and compared before images are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.recipe import Recipe
from isogon import images as sources
from isogon.errors import UsageError
from isogon.images import ClassChoice, ImageFolder, Images

FORMS = f"{sources.FORMS}; or `hfds/NAME:SPLIT`"
# timm reads these only in order, but training reads images by index.
_IN_ORDER_ONLY = {
    "hfids": "Write it as hfds/, which reads by index.",
    "tfds": "Write its images to a folder or to tar archives first.",
}
# Names of the familiar (in-distribution) sources in messages. Unfamiliar (OOD) sets have
# their own names, which have no brackets.
IMAGES, TEST = "`images` of [data]", "`test` of [data]"


def open_source(source: str, choice: ClassChoice | None = None) -> Images:
    """Return the images that `source` names.

    Args:
        source: what `isogon.images.open_images` takes, or `hfds/NAME` or
            `hfds/NAME:SPLIT`, a Hugging Face dataset read by timm.
        choice: where the classes come from; None: found automatically.

    Raises:
        UsageError: there is no such source, or none of its images can be read.
    """
    reader, _, name = source.partition("/")
    if Path(source).expanduser().is_dir():
        return sources.open_images(source, choice=choice)
    if reader in _IN_ORDER_ONLY:
        raise UsageError(
            f"{source} is read in order only, but training reads images by index. "
            f"{_IN_ORDER_ONLY[reader]}"
        )
    if reader == "hfds":
        from distill.images.hugging_face import hugging_face_images  # imports torch

        return hugging_face_images(name, choice or ClassChoice())
    return sources.open_images(source, forms=FORMS, choice=choice)


def require_sources(recipe: Mapping[str, Any]) -> None:
    """Refuse sources whose files do not exist, without opening any.

    Args:
        recipe: as a document, maybe unchecked; values of wrong types are ignored.

    Raises:
        UsageError: names the first of them. Datasets of the hub are not checked.
    """
    data, unfamiliar = recipe.get("data"), recipe.get("unfamiliar")
    tables = [data] if isinstance(data, Mapping) else []
    if isinstance(unfamiliar, list | tuple):
        tables += [one for one in unfamiliar if isinstance(one, Mapping)]
    for source in (table.get(key) for table in tables for key in ("images", "test")):
        if not isinstance(source, str):
            continue
        if source.partition("/")[0] not in {"hfds", *_IN_ORDER_ONLY}:
            sources.require_there(source, forms=FORMS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """All images of a recipe."""

    familiar: Images
    held_out: Images | None  # of the recipe's `test`
    unfamiliar: dict[str, Images]  # by the set's name

    @property
    def by_title(self) -> dict[str, Images]:
        """Every source by its name in the recipe, the familiar images first."""
        held_out = {} if self.held_out is None else {TEST: self.held_out}
        return {IMAGES: self.familiar} | held_out | self.unfamiliar

    @property
    def all(self) -> list[Images]:
        """Every source, the familiar images first."""
        return list(self.by_title.values())

    def require_apart(self) -> None:
        """Refuse sources that share images by name, or whose classes differ.

        Raises:
            UsageError: an image would have two roles, or `test` has other classes.
        """
        if self.held_out is not None:
            shared = _shared(self.familiar, self.held_out)
            if shared:
                raise UsageError(
                    f"{IMAGES} and `test` share {len(shared)} images, such as "
                    f"{min(shared)}, so the test would use training images. Name other "
                    f"images, or leave `test` out: then a part of `images` is held out."
                )
            _require_same_classes(self.familiar, self.held_out)
        familiar = {IMAGES: self.familiar}
        if self.held_out is not None:
            familiar[TEST] = self.held_out
        for name, unfamiliar in self.unfamiliar.items():
            for title, images in familiar.items():
                shared = _shared(images, unfamiliar)
                if shared:
                    raise UsageError(
                        f"[[unfamiliar]] {name} and {title} share {len(shared)} images, "
                        f"such as {min(shared)}, so the OOD score would have to flag "
                        f"familiar images. Name images that are not among those."
                    )


def listed(recipe: Recipe) -> Sources:
    """List every source of a recipe.

    Raises:
        UsageError: a source does not exist, or holds no images.
    """
    section = recipe.data

    def opened(source: str, choice: ClassChoice | None = None) -> Images:
        return open_source(source, choice).ranging(section.range)

    choice = section.class_choice
    return Sources(
        familiar=opened(section.images, choice),
        held_out=None if section.test is None else opened(section.test, choice),
        unfamiliar={each.name: opened(each.images) for each in recipe.unfamiliar},
    )


def _shared(ours: Images, theirs: Images) -> set[str]:
    """Return the images that both sources have, by file, or by name in the same files."""
    files = _files(ours) & _files(theirs)
    if not files or (isinstance(ours, ImageFolder) and isinstance(theirs, ImageFolder)):
        return set(map(str, files))
    return set(ours.names) & set(theirs.names)


def _files(images: Images) -> set[Path]:
    """Return the resolved paths of the images' files."""
    return {path.resolve() for path in images.files()}


def _require_same_classes(familiar: Images, held_out: Images) -> None:
    """Refuse classes that differ, if both sources have classes."""
    if not familiar.classes or not held_out.classes:
        return
    differing = sorted(set(familiar.classes) ^ set(held_out.classes))
    if differing:
        raise UsageError(
            f"`images` and `test` of [data] must have the same classes, but "
            f"{familiar.where} has {len(familiar.classes)} and {held_out.where} has "
            f"{len(held_out.classes)}; only one of them has {', '.join(differing[:10])}. "
            f"Add what is missing, or leave `test` out."
        )
