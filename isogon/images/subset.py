"""Samples: a few of the images that were learnt from, for choosing ranges of int8."""

import numpy as np
from jaxtyping import Int

SAMPLES = "samples.safetensors"  # `familiar`, `unfamiliar` uint8 [n, h, w, 3]
SAMPLE_LIMIT = 128


def spread(count: int, limit: int = SAMPLE_LIMIT) -> Int[np.ndarray, " _"]:
    """Return at most `limit` of the places 0 … count - 1, evenly apart."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(int))
