"""The images of a run and their roles.

Familiar images are in-distribution: they train, calibrate and test. Unfamiliar images are
out-of-distribution (OOD): a detector should flag them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

from distill.images.copies import ReadSource, find_copies
from distill.images.listing import IMAGES, TEST, listed
from distill.images.synthetic import synthetic_share, with_synthetic
from distill.recipe import Recipe
from isogon.bundle import Thumbnails
from isogon.bundle.evaluation import Copies
from isogon.images import Images, Preprocessing, Split, split, split_apart
from isogon.images.collection import Indices, spread
from isogon.progress import Progress, say

FITTED = 6000  # images the closed form is fitted on, at most
COMPARED = 512  # training images that validation images are compared with, at most
UNFAMILIAR_KEPT = 64  # unfamiliar images kept in the bundle for parity
_FEWEST_VALIDATED = 24  # images; among fewer, neighbours mean little


@dataclass(frozen=True, kw_only=True, slots=True)
class Unfamiliar:
    """One set of images that the OOD detector should flag."""

    images: Images
    flaggable: Indices  # images that can be read
    kind: Literal["near", "far"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """The familiar images with their roles, and the unfamiliar ones.

    `split.bank` and `bank` index `familiar`; `split.calibration` and `split.test`
    index `held_out`, which is `familiar` itself unless the recipe names a `test`.
    `imitated` has the images of `familiar` at the same indices, then synthetic ones.
    """

    familiar: Images
    imitated: Images  # what the student imitates the teacher on
    held_out: Images
    split: Split
    bank: Indices  # training images that are kept as references
    validation: Indices  # the last of `split.bank`, to choose the best weights
    unfamiliar: dict[str, Unfamiliar]  # by the set's name; may be empty
    unreadable: dict[str, dict[str, str]]  # what is left out: source, name, reason
    copies: Copies | None  # None if there are no copies

    @property
    def training(self) -> Indices:
        """The training images that steps learn from: `split.bank` without `validation`."""
        return self.split.bank[: len(self.split.bank) - len(self.validation)]

    @property
    def synthetic(self) -> Indices:
        """The synthetic images, in `imitated`."""
        return np.arange(len(self.familiar), len(self.imitated))

    @property
    def taught(self) -> Indices:
        """All that steps learn from, in `imitated`: `training`, then `synthetic`."""
        return np.concatenate([self.training, self.synthetic])

    @property
    def everything(self) -> Indices:
        """`taught`, then `validation`; without synthetic images this is `split.bank`."""
        return np.concatenate([self.taught, self.validation])

    @property
    def fitted(self) -> Indices:
        """What the closed form is fitted on, in `imitated`, and then `validation`.

        At most `FITTED` of `training`, evenly spaced, then `synthetic`. On Tiny ImageNet
        4,000 to 13,000 images gave the same layer (overlap@10 0.228 to 0.232), and each
        costs a teacher's pass.
        """
        chosen = self.training[spread(len(self.training), FITTED)]
        return np.concatenate([chosen, self.synthetic, self.validation])

    @property
    def compared(self) -> Indices:
        """Where in `fitted` the validation images are, after those they are compared with.

        The latter are at most `COMPARED` training images. Compared only with one another,
        40 validation images called every student of 400 images worse than its start, when
        on 1,200 test images its overlap@10 was 0.54, not 0.45.
        """
        end = len(self.fitted)
        first = end - len(self.validation)
        others = spread(first - len(self.synthetic), COMPARED)
        return np.concatenate([others, np.arange(first, end)])

    @property
    def sources(self) -> dict[str, Images]:
        """All sources, by their names in the recipe."""
        unfamiliar = {
            f"[[unfamiliar]] {name}": each.images for name, each in self.unfamiliar.items()
        }
        return {
            "[data] images": self.familiar,
            "[data] test": self.held_out,
            **unfamiliar,
        }

    @property
    def training_names(self) -> list[str]:
        """The names of the images that steps learn from."""
        return [self.familiar.names[index] for index in self.training]

    def held_out_pixels(
        self, preprocessing: Preprocessing, progress: Progress
    ) -> dict[str, np.ndarray]:
        """Return the pixels that parity and calibration need, by role."""
        calibration = self.split.calibration
        arrays = {"familiar": self.held_out.pixels(calibration, preprocessing, progress)}
        if self.unfamiliar:
            arrays["unfamiliar"] = np.concatenate(
                [
                    each.images.pixels(self._kept(each), preprocessing, progress)
                    for each in self.unfamiliar.values()
                ]
            )
        return arrays

    def sample_pixels(
        self, preprocessing: Preprocessing, progress: Progress
    ) -> dict[str, np.ndarray]:
        """Return the pixels on which int8's ranges are chosen, by role.

        They are images of the bank, and unfamiliar images that parity does not use. Int8
        clips values outside its ranges, which would hide what is unusual in an OOD image.
        """
        chosen = self.bank[spread(len(self.bank))]
        arrays = {"familiar": self.familiar.pixels(chosen, preprocessing, progress)}
        unfamiliar = [
            each.images.pixels(left, preprocessing, progress)
            for each in self.unfamiliar.values()
            if len(left := self._left(each))
        ]
        if unfamiliar:
            arrays["unfamiliar"] = np.concatenate(unfamiliar)
        return arrays

    def thumbnails(
        self,
        embeddings: Float32[np.ndarray, "bank d"],
        limit: int,
        preprocessing: Preprocessing,
        progress: Progress,
    ) -> Thumbnails:
        """Return small pictures of at most `limit` of the bank's images, evenly chosen.

        If there are classes, each has its share.

        Args:
            embeddings: the student's, of the bank.
            limit: how many.
            preprocessing: its crop is shown.
            progress: where to show progress.
        """
        labels = self.familiar.labels(self.bank)
        order = np.arange(len(self.bank))
        if labels is not None:
            order = np.argsort(labels, kind="stable")
        chosen = np.sort(order[spread(len(order), limit)])
        tracked = progress.track(self.bank[chosen], description="Drawing thumbnails")
        return Thumbnails.of(
            (preprocessing.pixels(self.familiar.image(int(i))) for i in tracked),
            embeddings[chosen],
            None
            if labels is None
            else [self.familiar.classes[number] for number in labels[chosen]],
        )

    def _kept(self, unfamiliar: Unfamiliar) -> Indices:
        """Return this set's images that the bundle keeps for parity, evenly chosen."""
        return self._part(unfamiliar.flaggable)

    def _left(self, unfamiliar: Unfamiliar) -> Indices:
        """Return the same number of images that are not kept for parity."""
        kept = self._kept(unfamiliar)
        return self._part(np.setdiff1d(unfamiliar.flaggable, kept))

    def _part(self, indices: Indices) -> Indices:
        count = max(1, UNFAMILIAR_KEPT // len(self.unfamiliar))
        part: Indices = indices[spread(len(indices), count)]
        return part


def prepare_data(recipe: Recipe, progress: Progress, cache: Path | None = None) -> Data:
    """List, check and divide the images.

    All sources are listed before any image is read.

    Args:
        recipe: names the images.
        progress: shows progress, and prints what was found and what is left out.
        cache: a folder that remembers which images can be read; see `Images.examined`.

    Raises:
        UsageError: a source without images, sources with different classes or with the
            same images, or images that do not suit `[ood]`.
    """
    section, alpha = recipe.data, recipe.ood.alpha
    sources = listed(recipe)
    for each in sources.all:
        each.say(progress)
    sources.require_apart()
    reading = _Reading(progress, section.unreadable_limit, cache)
    seen = {name: reading.usable(each) for name, each in sources.by_title.items()}
    found = find_copies(seen, section.copy_distance, progress)
    familiar, held_out = sources.familiar, sources.held_out
    learnable = found.usable[IMAGES]
    if held_out is None:
        roles = split(
            familiar,
            learnable,
            section.shares,
            alpha=alpha,
            pictures=found.pictures[IMAGES],
        )
    else:
        roles = split_apart(
            familiar,
            learnable,
            held_out,
            found.usable[TEST],
            section.shares,
            alpha=alpha,
            pictures=found.pictures[IMAGES],
            held_out_pictures=found.pictures[TEST],
        )
        say(
            progress,
            f"{len(roles.calibration):,} images of {held_out.where} calibrate the OOD "
            f"score and {len(roles.test):,} are for testing; `calibration_of_test` in "
            f"[data] changes this.",
        )
    bank = roles.bank[: section.bank_limit]
    aside = 0
    if recipe.train.keep == "best" and recipe.train.epochs:
        aside = set_aside(
            len(roles.bank),
            section.validation_limit,
            pretrained=recipe.student.from_pretrained,
        )
        aside = _without_copies(aside, found.pictures[IMAGES][roles.bank])
    recipe.ood.require_bank(len(bank), familiar.labels(bank))
    training = roles.bank[: len(roles.bank) - aside]
    share = synthetic_share(section, len(training))
    imitated = with_synthetic(familiar, training, share, recipe.train.seed)
    if len(imitated) > len(familiar):
        say(
            progress,
            f"The student imitates the teacher on {len(imitated) - len(familiar):,} "
            f"synthetic images too, so that it detects unfamiliar images as well; "
            f"`synthetic` in [data] changes this.",
        )
    return Data(
        familiar=familiar,
        imitated=imitated,
        held_out=familiar if held_out is None else held_out,
        split=roles,
        bank=bank,
        validation=roles.bank[len(roles.bank) - aside :],
        unfamiliar={
            each.name: Unfamiliar(
                images=sources.unfamiliar[each.name],
                flaggable=found.usable[each.name],
                kind=each.kind,
            )
            for each in recipe.unfamiliar
        },
        unreadable=reading.unreadable,
        copies=found.summary(learnable, roles),
    )


def set_aside(images: int, limit: int, *, pretrained: bool) -> int:
    """Return how many of `images` training images are for validation: a tenth.

    Neighbours among a few images mean little, so there are none below 240 images. A
    pretrained student overfits few images soon, so up to a quarter are for its validation.
    """
    count = min(limit, max(_FEWEST_VALIDATED, images // 10))
    most = images // 4 if pretrained else images // 10
    return count if _FEWEST_VALIDATED <= count <= most else 0


def _without_copies(aside: int, pictures: Indices) -> int:
    """Return the number of validation images that separates no copies.

    Args:
        aside: the wanted number; validation images are the last ones.
        pictures: picture numbers of the training images; copies are next to each other.
    """
    while 0 < aside < len(pictures) and pictures[-aside] == pictures[-aside - 1]:
        aside -= 1
    return aside if aside >= _FEWEST_VALIDATED else 0


class _Reading:
    """Reads all images of sources once, and records which cannot be read."""

    def __init__(self, progress: Progress, limit: float, cache: Path | None) -> None:
        self._progress = progress
        self._limit = limit
        self._cache = cache
        self.unreadable: dict[str, dict[str, str]] = {}

    def usable(self, images: Images) -> ReadSource:
        """Return which images of a source can be read, and their thumbnails."""
        examined = images.examined(self._progress, self._cache)
        faults = examined.faults
        if faults:
            self.unreadable[images.where] = faults
        usable = images.readable(self._progress, limit=self._limit, faults=faults)
        if assumption := images.assumption(usable):
            say(self._progress, assumption)
        return ReadSource(images=images, usable=usable, thumbnails=examined.thumbnails)
