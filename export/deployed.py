"""The function to deploy, and the images on which its artifacts prove that they are it."""

from dataclasses import dataclass

from bundle import (
    Bundle,
    Preprocessing,
    Reduction,
    function_fingerprint,
    reduction_in_force,
)
from bundle.runners import Pixels
from export.graph import Graph, detector_in_force, graph_from_bundle
from export.parity import ParityImages


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """One student with one detector; every artifact of a bundle computes it."""

    graph: Graph
    fingerprint: str  # SHA-256 of what fixes the function, the same in any precision
    preprocessing: Preprocessing
    images: ParityImages
    samples: Pixels | None  # familiar ones, which the gate does not use; for int8
    reduction: Reduction | None = None  # of the detector's bank

    @classmethod
    def of(cls, bundle: Bundle, extra: Pixels | None = None) -> "Deployed":
        """Return the function that the bundle's artifacts compute."""
        folder = detector_in_force(bundle)
        files = bundle.manifest.files
        reduction = reduction_in_force(bundle, folder)
        return cls(
            graph=graph_from_bundle(bundle),
            fingerprint=function_fingerprint(
                bundle.manifest,
                detector=files[f"{folder}/detector.json"].sha256,
                statistics=files[f"{folder}/reference.safetensors"].sha256,
                reduction=reduction,
            ),
            preprocessing=bundle.manifest.preprocessing,
            images=ParityImages.of(bundle, extra),
            samples=samples(bundle, folder),
            reduction=reduction,
        )
