"""From a fitted detector to the torch module that computes its score in the graph."""

from functools import singledispatch

from torch import nn

from isogon.ood import Detector


@singledispatch
def score_of(detector: Detector) -> nn.Module:
    """Return a module from embeddings [b, d] to the detector's scores [b], float32.

    Each file of this package registers its detectors:
    `@score_of.register(TheDetector)`.
    """
    raise TypeError(
        f"No file of export/graph/scores registers a graph for {type(detector).__name__}."
    )
