"""Copies among the images of a run, within a source and across sources."""

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

# Beyond this share of copies of familiar images a set is not what the recipe takes it for.
_SHARED_LIMIT = 0.1
_SHOWN = 3  # names, or pairs of names


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """A source whose images have been read."""

    images: Images
    usable: Indices
    thumbnails: UInt8[np.ndarray, "images 16 16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Which image shows which picture, by what the recipe calls the source."""

    images: Images  # those to learn from
    pictures: dict[str, Indices]  # the picture of every image; -1 where it is not read
    usable: dict[str, Indices]  # without those of `test` and unfamiliar ones shown before
    shared: dict[str, int]  # how many of a source were left out for that

    def summary(self, learnable: Indices, roles: Split) -> Copies | None:
        """Return what `evaluation.json` says of copies; None where there are none."""
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


def find_copies(sources: Mapping[str, Read], distance: float, progress: Progress) -> Found:
    """Find the images that show one picture, and leave out what was shown before.

    Left out are images of `test` that are copies of images to learn from, and unfamiliar
    ones that are copies of familiar ones; copies within the familiar images stay, for
    `split` to keep on one side.

    Args:
        sources: by what the recipe calls them: `IMAGES`, maybe `TEST`, unfamiliar sets.
        distance: see `bundle.copies.pictures`.
        progress: where to say what was found.

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
            _tell_shared(title, each, each.usable[again], progress)
    found = Found(
        images=sources[IMAGES].images, pictures=by_source, usable=usable, shared=shared
    )
    _tell_copies(sources[IMAGES], by_source[IMAGES], progress)
    return found


def _tell_shared(title: str, source: Read, again: Indices, progress: Progress) -> None:
    """Say which images of a source are left out as familiar; refuse too many."""
    shown = ", ".join(source.images.names[index] for index in again[:_SHOWN])
    familiar = "`images`" if title == TEST else "familiar images"
    name = title if title == TEST else f"[[unfamiliar]] {title}"
    what = (
        f"{len(again):,} of the {len(source.usable):,} images of {name} are copies of "
        f"{familiar}, such as {shown}"
    )
    if len(again) > _SHARED_LIMIT * len(source.usable):
        why = "test would be on what is learnt from"
        if title != TEST:
            why = "OOD score would be asked to flag what is familiar"
        raise UsageError(
            f"{what}, so that the {why}. Name other images, or, where they only look "
            f"alike, set a smaller `copy_distance` in [data]."
        )
    _print(f"{what}. They are left out.", progress)


def _tell_copies(source: Read, shown: Indices, progress: Progress) -> None:
    """Say how many images to learn from are copies of others."""
    pictures, counts = np.unique(shown[source.usable], return_counts=True)
    copied, different = int(counts[counts > 1].sum()), int((counts > 1).sum())
    if copied:
        names, first = source.images.names, pictures[counts > 1][0]
        alike = source.usable[shown[source.usable] == first][:_SHOWN]
        _print(
            f"{copied:,} of the {len(source.usable):,} images of {source.images.where} are "
            f"copies of one another (of {different:,} different "
            f"picture{'' if different == 1 else 's'}), such as "
            f"{', '.join(names[index] for index in alike)}. Copies never play two roles, "
            f"and of those held out one is used; `copy_distance` in [data] says what a "
            f"copy is.",
            progress,
        )


def _print(text: str, progress: Progress) -> None:
    say(progress, text)
