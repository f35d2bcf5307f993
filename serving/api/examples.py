"""Images to try at once: a few of those that a bundle holds out."""

import io
from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from safetensors import safe_open

from isogon.bundle import HELD_OUT, SITE_DETECTOR, Bundle, held_out_for
from isogon.images.subset import spread

Kind = Literal["familiar", "unfamiliar"]

_EACH = 5
# The site's images come before training's, where the bundle was calibrated.
_PLACES: dict[Kind, tuple[str, ...]] = {
    "familiar": (held_out_for(SITE_DETECTOR), HELD_OUT),
    "unfamiliar": (HELD_OUT,),
}


def example_images(bundle: Bundle) -> list[tuple[Kind, bytes]]:
    """Return some familiar and some unfamiliar images as JPEG, evenly chosen.

    They have the model's size already; where its preprocessing cuts a margin, that
    is cut once more when they are asked about. Each is read alone: all would be tens
    of megabytes.
    """
    return [
        (kind, _jpeg(pixels))
        for kind, names in _PLACES.items()
        for pixels in _some(bundle, kind, names)
    ]


def _some(
    bundle: Bundle, kind: Kind, names: tuple[str, ...]
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    name = next((name for name in names if name in bundle), None)
    if name is None:
        return
    with safe_open(bundle.file(name), framework="numpy") as file:
        if kind not in file.keys():
            return
        images = file.get_slice(kind)
        for place in spread(images.get_shape()[0], _EACH):
            yield images[int(place)]


def _jpeg(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
