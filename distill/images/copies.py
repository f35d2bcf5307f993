"""Copies among the images of a run, within a source and between sources."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from distill.images.listing import IMAGES, TEST
from isogon.bundle.evaluation import Copies
from isogon.errors import UsageError
from isogon.images import Images, Split
from isogon.images.collection import Indices
from isogon.images.copies import pictures
from isogon.progress import Progress, say

# With a larger share of copies of familiar (in-distribution) images a source is refused.
_SHARED_LIMIT = 0.1
_SHOWN = 3  # names, or pairs of names


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadSource:
    """A source whose images have been read once."""

    images: Images
    usable: Indices  # that can be read
    thumbnails: UInt8[np.ndarray, "images 16 16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CopiesFound:
    """Which images are copies, by the recipe's name of their source.

    Copies show the same picture: they have the same picture number.
    """

    images: Images  # the images to learn from
    pictures: dict[str, Indices]  # the picture number of each image; -1 if unreadable
    usable: dict[str, Indices]  # readable images without those that were left out
    shared: dict[str, int]  # how many images were left out as copies of familiar ones

    def summary(self, learnable: Indices, roles: Split) -> Copies | None:
        """Return what `evaluation.json` says about copies; None if there are none."""
        shown = self.pictures[IMAGES][learnable]
        _, place, inverse, counts = np.unique(
            shown, return_index=True, return_inverse=True, return_counts=True
        )
        copied = np.flatnonzero(counts[inverse] > 1)
        if not len(copied) and not self.shared:
            return None
        first = learnable[place[inverse]]
        names = self.images.names
        pairs = [
            (names[first[n]], names[learnable[n]])
            for n in copied
            if first[n] != learnable[n]
        ]
        held_out = 0 if TEST in self.pictures else len(roles.calibration) + len(roles.test)
        return Copies(
            images=len(copied),
            pictures=int((counts > 1).sum()),
            left_out=len(learnable) - len(roles.bank) - held_out,
            shared=self.shared,
            examples=tuple(pairs[:_SHOWN]),
        )


def find_copies(
    sources: Mapping[str, ReadSource], distance: float, progress: Progress
) -> CopiesFound:
    """Find copies, and leave out copies of familiar images in other sources.

    Images of `test` are left out if they are copies of images to learn from. Unfamiliar
    (OOD) images are left out if they are copies of familiar ones. Copies within the
    familiar images stay; `split` gives them the same role.

    Args:
        sources: by their names in the recipe: `IMAGES`, perhaps `TEST`, unfamiliar sets.
        distance: see `isogon.images.copies.pictures`.
        progress: prints what was found.

    Raises:
        UsageError: more than a tenth of a source would be left out.
    """
    numbers = pictures(
        np.concatenate([each.thumbnails[each.usable] for each in sources.values()]),
        distance,
    )
    by_source: dict[str, Indices] = {}
    usable: dict[str, Indices] = {}
    shared: dict[str, int] = {}
    start = 0
    for title, each in sources.items():
        shown = numbers[start : start + len(each.usable)]
        start += len(shown)
        by_source[title] = np.full(len(each.images), -1)
        by_source[title][each.usable] = shown
        familiar = [by_source[name] for name in (IMAGES, TEST) if name in usable]
        again = np.isin(shown, np.concatenate(familiar)) if familiar else shown < 0
        usable[title] = each.usable[~again]
        if again.any():
            shared[title] = int(again.sum())
            _print_shared(title, each, each.usable[again], progress)
    found = CopiesFound(
        images=sources[IMAGES].images, pictures=by_source, usable=usable, shared=shared
    )
    _print_copies(sources[IMAGES], by_source[IMAGES], progress)
    return found


def _print_shared(
    title: str, source: ReadSource, again: Indices, progress: Progress
) -> None:
    """Print which images of a source are left out as familiar; refuse too many."""
    shown = ", ".join(source.images.names[index] for index in again[:_SHOWN])
    familiar = "`images`" if title == TEST else "familiar images"
    name = title if title == TEST else f"[[unfamiliar]] {title}"
    what = (
        f"{len(again):,} of the {len(source.usable):,} images of {name} are copies of "
        f"{familiar}, such as {shown}"
    )
    if len(again) > _SHARED_LIMIT * len(source.usable):
        why = "test would use training images"
        if title != TEST:
            why = "OOD score would have to flag familiar images"
        raise UsageError(
            f"{what}, so the {why}. Name other images, or, if they only look alike, set a "
            f"smaller `copy_distance` in [data]."
        )
    say(progress, f"{what}. They are left out.")


def _print_copies(source: ReadSource, shown: Indices, progress: Progress) -> None:
    """Print how many images to learn from are copies of others."""
    pictures, counts = np.unique(shown[source.usable], return_counts=True)
    copied, different = int(counts[counts > 1].sum()), int((counts > 1).sum())
    if copied:
        names, first = source.images.names, pictures[counts > 1][0]
        alike = source.usable[shown[source.usable] == first][:_SHOWN]
        say(
            progress,
            f"{copied:,} of the {len(source.usable):,} images of {source.images.where} are "
            f"copies of one another (of {different:,} different "
            f"picture{'' if different == 1 else 's'}), such as "
            f"{', '.join(names[index] for index in alike)}. Copies never have two roles, "
            f"and only one of several held-out copies is used. `copy_distance` in [data] "
            f"defines what a copy is.",
        )
