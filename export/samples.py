"""The pixels on which int8's ranges are chosen; the gate does not use them."""

import numpy as np

from isogon.bundle import SITE_DETECTOR, Bundle
from isogon.errors import UsageError
from isogon.images.subset import SAMPLES
from isogon.runtimes import Pixels


def quantisation_pixels(bundle: Bundle, extra: Pixels | None = None) -> Pixels:
    """Return images that the student learnt from, or the site's where it has its own.

    Behind them come unfamiliar ones, where training had more than parity needs.
    A bundle that is older than its samples gives `extra`, the images named beside it.

    Raises:
        UsageError: it has none, and none were named.
    """
    for name in (f"{SITE_DETECTOR}/{SAMPLES}", SAMPLES):
        if name in bundle:
            familiar: Pixels = bundle.arrays(name)["familiar"]
            others = bundle.arrays(SAMPLES) if SAMPLES in bundle else {}
            return np.concatenate([familiar, others.get("unfamiliar", familiar[:0])])
    if extra is not None:
        return extra
    raise UsageError(
        f"{bundle.path} holds no {SAMPLES}, on which the ranges of int8 are chosen: an "
        f"older Isogon made it. Name images of its kind with `--images FOLDER`, or distil "
        f"again."
    )
