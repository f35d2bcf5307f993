"""The pixels on which int8's ranges are chosen; the gate does not use them."""

from bundle import Bundle, UsageError
from bundle.runners import Pixels
from bundle.samples import SAMPLES
from export.graph import SITE_DETECTOR


def quantisation_pixels(bundle: Bundle) -> Pixels:
    """Return images that the student learnt from, or the site's where it has its own.

    Raises:
        UsageError: the bundle is older than its samples.
    """
    for name in (f"{SITE_DETECTOR}/{SAMPLES}", SAMPLES):
        if name in bundle:
            pixels: Pixels = bundle.arrays(name)["familiar"]
            return pixels
    raise UsageError(
        f"{bundle.path} holds no {SAMPLES}, on which the ranges of int8 are chosen: an "
        f"older Isogon made it. Name images of its kind with `--images FOLDER`, or distil "
        f"again."
    )
