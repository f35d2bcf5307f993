"""The function to deploy, and the images on which artifacts are compared with it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from export.graph import DeployedGraph, graph_from_bundle
from export.parity import ParityImages, quantisation_pixels
from export.reduction import ReducedBank
from isogon.bundle import (
    Bundle,
    Reduction,
    detector_in_force,
    function_digest,
    reduction_in_force,
)
from isogon.images import Preprocessing
from isogon.networks import student_from_bundle
from isogon.runtimes import Pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class DeployedFunction:
    """One student with one detector; every artifact of a bundle computes this function."""

    graph: DeployedGraph
    function: str  # SHA-256 of all that defines it; the same in any precision
    preprocessing: Preprocessing
    images: ParityImages
    samples: Callable[[], Pixels]  # real images that the gate does not use; for int8
    reduction: Reduction | None  # of the detector's bank

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        extra: Pixels | None = None,
        reduced: ReducedBank | None = None,
    ) -> "DeployedFunction":
        """Return the function that the bundle's artifacts compute.

        Args:
            bundle: a distilled bundle.
            extra: real pixels in addition to the held-out ones.
            reduced: replaces the bank in force.
        """
        folder = detector_in_force(bundle)
        if reduced is None:
            graph = graph_from_bundle(bundle)
            reduction = reduction_in_force(bundle, folder)
        else:
            graph = DeployedGraph(student_from_bundle(bundle), reduced.detector)
            reduction = None if reduced.record.whole else reduced.record
        return cls(
            graph=graph,
            function=_function(bundle, folder, reduction),
            preprocessing=bundle.manifest.preprocessing,
            images=ParityImages.of(bundle, extra),
            samples=partial(quantisation_pixels, bundle, extra),
            reduction=reduction,
        )


def _function(bundle: Bundle, folder: str, reduction: Reduction | None) -> str:
    files = bundle.manifest.files
    return function_digest(
        bundle.manifest,
        detector=files[f"{folder}/detector.json"].sha256,
        statistics=files[f"{folder}/reference.safetensors"].sha256,
        reduction=reduction,
    )
