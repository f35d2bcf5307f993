"""Which image plays which role, decided by the rank of its name's hash."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from bundle.calibration import scores_needed
from bundle.collection import Images, Indices
from bundle.errors import UsageError

SMALLEST_BANK = 10

_REMEDY = (
    "Add images, or allow more false alarms: with `alpha` under [ood] of a recipe, or "
    "--alpha of `isogon calibrate`."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """How much of the images is held out."""

    calibration: float = 0.15  # or as many as alpha needs, if that is more
    calibration_limit: int = 500
    test: float = 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Indices by role; no image plays two.

    The same images get the same roles on any machine and in any order of listing.
    """

    bank: Int[np.ndarray, " bank"]  # to learn from and to compare with
    calibration: Int[np.ndarray, " calibration"]
    test: Int[np.ndarray, " test"]


def split(images: Images, usable: Indices, shares: Shares, *, alpha: float) -> Split:
    """Divide the usable images so that a false-alarm rate `alpha` can be promised.

    Raises:
        UsageError: there are too few images for that.
    """
    share = min(round(shares.calibration * len(usable)), shares.calibration_limit)
    calibration = max(scores_needed(alpha), share)
    test = max(1, round(shares.test * len(usable))) if shares.test > 0 else 0
    needed = calibration + test + SMALLEST_BANK
    if len(usable) < needed:
        raise UsageError(
            f"{images.where} holds {_readable(len(usable))}; a false-alarm rate of "
            f"{alpha:g} needs {calibration} for calibration, {test} for the test and "
            f"{SMALLEST_BANK} to learn from, {needed} in all. {_REMEDY}"
        )
    ranked = _ranked(images, usable)
    return Split(
        calibration=ranked[:calibration],
        test=ranked[calibration : calibration + test],
        bank=ranked[calibration + test :],
    )


def split_apart(
    images: Images,
    usable: Indices,
    held_out: Images,
    held_out_usable: Indices,
    shares: Shares,
    *,
    alpha: float,
) -> Split:
    """Learn from all of `images`; calibrate and test on `held_out`.

    The held-out images are divided in proportion to the shares. `calibration` and
    `test` of the result index `held_out`, `bank` indexes `images`.

    Raises:
        UsageError: there are too few images of either.
    """
    if len(usable) < SMALLEST_BANK:
        raise UsageError(
            f"{images.where} holds {_readable(len(usable))}; expected at least "
            f"{SMALLEST_BANK} to learn from. Add images."
        )
    total = len(held_out_usable)
    share = round(total * shares.calibration / (shares.calibration + shares.test))
    calibration = max(scores_needed(alpha), min(share, shares.calibration_limit))
    if total < calibration + 1:
        raise UsageError(
            f"{held_out.where} holds {_readable(total)}; a false-alarm rate of "
            f"{alpha:g} needs {calibration} for calibration and 1 for the test. {_REMEDY}"
        )
    ranked = _ranked(held_out, held_out_usable)
    return Split(
        calibration=ranked[:calibration],
        test=ranked[calibration:],
        bank=_ranked(images, usable),
    )


def _readable(count: int) -> str:
    return f"{count:,} readable {'image' if count == 1 else 'images'}"


def _ranked(images: Images, usable: Indices) -> Indices:
    """Return the indices in the order of their names' hashes."""
    return np.array(sorted(usable.tolist(), key=lambda i: _hash(images.names[i])))


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape")).digest()
