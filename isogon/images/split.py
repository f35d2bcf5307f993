"""The split into bank (training), calibration and test images, by a hash of the names."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from isogon.errors import UsageError
from isogon.images.collection import Images, Indices
from isogon.ood.calibration import scores_needed

SMALLEST_BANK = 10

_REMEDY = (
    "Add images, or allow more false alarms: with `alpha` under [ood] of a recipe, or as "
    "the argument `alpha` of `isogon calibrate`."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Which share of the images is held out."""

    calibration: float = 0.15  # more if alpha needs more
    calibration_limit: int = 500
    test: float = 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Indices by role; no image has two roles.

    The same images get the same roles on any machine, in any order of listing.
    """

    bank: Int[np.ndarray, " bank"]  # to train on, and the detector's bank
    calibration: Int[np.ndarray, " calibration"]
    test: Int[np.ndarray, " test"]


def split(
    images: Images,
    usable: Indices,
    shares: Shares,
    *,
    alpha: float,
    pictures: Indices | None = None,
) -> Split:
    """Split the usable images, with enough calibration images for `alpha`.

    At most one image of each picture is held out, because copies add no information; the
    copies of a held-out image have no role.

    Args:
        images: their names decide the roles.
        usable: the images to split.
        shares: which share is held out.
        alpha: the false-alarm rate.
        pictures: the picture of each image, see `isogon.images.copies`; None: no copies.

    Raises:
        UsageError: there are too few images.
    """
    ranked, first = _ranked(images, usable, pictures)
    singles = ranked[first]
    share = min(round(shares.calibration * len(singles)), shares.calibration_limit)
    calibration = max(scores_needed(alpha), share)
    test = max(1, round(shares.test * len(singles))) if shares.test > 0 else 0
    needed = calibration + test + SMALLEST_BANK
    if len(singles) < needed:
        raise UsageError(
            f"{images.where} holds {_readable(usable, singles)}; a false-alarm rate of "
            f"{alpha:g} needs {calibration} for calibration, {test} for the test and "
            f"{SMALLEST_BANK} to learn from, {needed} in all. {_REMEDY}"
        )
    held_out = np.cumsum(first) <= calibration + test  # with their copies
    return Split(
        calibration=singles[:calibration],
        test=singles[calibration : calibration + test],
        bank=ranked[~held_out],
    )


def split_apart(
    images: Images,
    usable: Indices,
    held_out: Images,
    held_out_usable: Indices,
    shares: Shares,
    *,
    alpha: float,
    pictures: Indices | None = None,
    held_out_pictures: Indices | None = None,
) -> Split:
    """Train on all of `images`; calibrate and test on `held_out`.

    The held-out images, one of each picture, are split in proportion to the shares.
    `calibration` and `test` of the result index `held_out`, `bank` indexes `images`.

    Raises:
        UsageError: there are too few images in one of them.
    """
    bank, _ = _ranked(images, usable, pictures)
    if len(bank) < SMALLEST_BANK:
        raise UsageError(
            f"{images.where} holds {_readable(usable, bank)}; expected at least "
            f"{SMALLEST_BANK} to learn from. Add images."
        )
    ranked, first = _ranked(held_out, held_out_usable, held_out_pictures)
    singles = ranked[first]
    total = len(singles)
    share = round(total * shares.calibration / (shares.calibration + shares.test))
    calibration = max(scores_needed(alpha), min(share, shares.calibration_limit))
    if total < calibration + 1:
        raise UsageError(
            f"{held_out.where} holds {_readable(held_out_usable, singles)}; a false-alarm "
            f"rate of {alpha:g} needs {calibration} for calibration and 1 for the test. "
            f"{_REMEDY}"
        )
    return Split(calibration=singles[:calibration], test=singles[calibration:], bank=bank)


def _readable(usable: Indices, singles: Indices) -> str:
    count = len(usable)
    said = f"{count:,} readable {'image' if count == 1 else 'images'}"
    copies = count - len(singles)
    return said + (f", {copies:,} of them copies of others" if copies else "")


def _ranked(
    images: Images, usable: Indices, pictures: Indices | None
) -> tuple[Indices, Bool[np.ndarray, " _"]]:
    """Return the indices in order of their names' hashes, with copies after the first.

    Also return whether each is the first image of its picture.
    """
    order = sorted(usable.tolist(), key=lambda i: _hash(images.names[i]))
    if pictures is None:
        return np.array(order), np.ones(len(order), bool)
    place: dict[int, int] = {}  # of the picture's first image
    for rank, index in enumerate(order):
        place.setdefault(int(pictures[index]), rank)
    ranked = sorted(order, key=lambda i: place[int(pictures[i])])
    numbers = np.array([place[int(pictures[i])] for i in ranked])
    return np.array(ranked), np.diff(numbers, prepend=-1) > 0


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape")).digest()
