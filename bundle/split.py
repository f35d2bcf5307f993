"""Which image plays which role, decided by the rank of its name's hash."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from bundle.calibration import scores_needed
from bundle.errors import UsageError
from bundle.folder import ImageFolder, Indices

SMALLEST_BANK = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """How much of a folder is held out."""

    calibration: float = 0.15  # or as many as alpha needs, if that is more
    calibration_limit: int = 500
    test: float = 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Indices by role; no image plays two.

    The same files get the same roles on any machine and in any order of listing.
    """

    bank: Int[np.ndarray, " bank"]  # to learn from and to compare with
    calibration: Int[np.ndarray, " calibration"]
    test: Int[np.ndarray, " test"]


def split(folder: ImageFolder, usable: Indices, shares: Shares, *, alpha: float) -> Split:
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
            f"{folder.root} holds {len(usable)} readable images; a false-alarm rate of "
            f"{alpha:g} needs {calibration} for calibration, {test} for the test and "
            f"{SMALLEST_BANK} to learn from, {needed} in all. Add images, or raise "
            f"alpha."
        )
    ranked = np.array(sorted(usable.tolist(), key=lambda i: _hash(folder.names[i])))
    return Split(
        calibration=ranked[:calibration],
        test=ranked[calibration : calibration + test],
        bank=ranked[calibration + test :],
    )


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape")).digest()
