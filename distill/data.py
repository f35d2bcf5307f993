"""The images of a run: familiar ones with their roles, and sets of unfamiliar ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.progress import Progress

from bundle import (
    ImageFolder,
    Images,
    Preprocessing,
    Split,
    UsageError,
    split,
    split_apart,
)
from bundle.collection import Indices
from distill.recipe import DataSection, Recipe, UnfamiliarSection

_UNFAMILIAR_KEPT = 64  # unfamiliar images kept in the bundle for parity


@dataclass(frozen=True, kw_only=True, slots=True)
class Unfamiliar:
    """One set of images that the OOD detector should flag."""

    images: Images
    flaggable: Indices  # those that can be read
    kind: Literal["near", "far"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """The familiar images with their roles, and the unfamiliar ones.

    `split.bank` and `bank` index `familiar`; `split.calibration` and `split.test`
    index `held_out`, which is `familiar` itself unless the recipe names a `test`.
    """

    familiar: Images
    held_out: Images
    split: Split
    bank: Indices  # those training images that are kept as references
    unfamiliar: dict[str, Unfamiliar]  # by the set's name; empty where there are none

    @property
    def trained(self) -> list[str]:
        """The names of the images that are learnt from."""
        return [self.familiar.names[index] for index in self.split.bank]

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

    def _kept(self, unfamiliar: Unfamiliar) -> Indices:
        """Return this set's part of the unfamiliar images in the bundle, spread out."""
        count = max(1, _UNFAMILIAR_KEPT // len(self.unfamiliar))
        places = np.linspace(0, len(unfamiliar.flaggable) - 1, count).astype(int)
        kept: Indices = unfamiliar.flaggable[np.unique(places)]
        return kept


def prepare_data(recipe: Recipe, progress: Progress) -> Data:
    """List, check and divide the images.

    Raises:
        UsageError: a source without images, sources with different classes, or images
            that do not do for `[ood]`.
    """
    unfamiliar = {each.name: _unfamiliar(each, progress) for each in recipe.unfamiliar}
    familiar, held_out, roles = _familiar(recipe.data, recipe.ood.alpha, progress)
    bank = roles.bank[: recipe.data.bank_limit]
    recipe.ood.require_possible(len(bank), bool(familiar.classes))
    return Data(
        familiar=familiar,
        held_out=held_out,
        split=roles,
        bank=bank,
        unfamiliar=unfamiliar,
    )


def _familiar(
    section: DataSection, alpha: float, progress: Progress
) -> tuple[Images, Images, Split]:
    familiar = ImageFolder.list(Path(section.images))
    if section.test is None:
        usable = familiar.readable(progress)
        return familiar, familiar, split(familiar, usable, section.shares, alpha=alpha)
    held_out = ImageFolder.list(Path(section.test))
    _require_same_classes(familiar, held_out)
    roles = split_apart(
        familiar,
        familiar.readable(progress),
        held_out,
        held_out.readable(progress),
        section.shares,
        alpha=alpha,
    )
    return familiar, held_out, roles


def _unfamiliar(section: UnfamiliarSection, progress: Progress) -> Unfamiliar:
    images = ImageFolder.list(Path(section.images))
    return Unfamiliar(images=images, flaggable=images.readable(progress), kind=section.kind)


def _require_same_classes(familiar: Images, held_out: Images) -> None:
    """Refuse classes that differ; where either has none there is nothing to compare."""
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
