"""The deployed function in torch: pixels to embedding and OOD score; the reference."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from export.graph.scores import score_of
from isogon.bundle import (
    Bundle,
    detector_in_force,
    detector_spec,
    reduced_detector,
    reduction_in_force,
)
from isogon.networks import Student, student_from_bundle
from isogon.ood import Detector
from isogon.runtimes import Outputs, Pixels, Runner


class DeployedGraph(nn.Module):
    """Normalisation, student, unit norm and detector in one traceable function."""

    def __init__(self, student: Student, detector: Detector) -> None:
        super().__init__()
        self.student = student
        self.score = score_of(detector)

    def forward(
        self, images: UInt8[Tensor, "b h w 3"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
        """Return unit-norm embeddings and OOD scores."""
        embedding = self.student.embed(images)
        return embedding, self.score(embedding)


class TorchRunner(Runner):
    """The graph in eager float32 torch on the CPU: artifacts are compared with this."""

    def __init__(self, graph: DeployedGraph) -> None:
        self._graph = graph.eval()
        self.name = f"torch {torch.__version__} eager float32 on CPU"

    def run(self, pixels: Pixels) -> Outputs:
        """Return embeddings [b, d] and OOD scores [b] of one batch."""
        with torch.inference_mode():
            embeddings, scores = self._graph(torch.from_numpy(pixels))
        return Outputs(embeddings=embeddings.numpy(), ood_scores=scores.numpy())


def full_detector(bundle: Bundle, folder: str) -> Detector:
    """Return the detector stored in `folder`, with its whole bank if it has one."""
    statistics = bundle.arrays(f"{folder}/reference.safetensors")
    return detector_spec(bundle, folder).load(statistics)


def graph_from_bundle(bundle: Bundle, folder: str | None = None) -> DeployedGraph:
    """Return the bundle's student with the detector in `folder`, or the one in force.

    The bank is the reduced one if `isogon export --bank` has made one.
    """
    folder = folder or detector_in_force(bundle)
    reduction = reduction_in_force(bundle, folder)
    if reduction is None:
        detector = full_detector(bundle, folder)
    else:
        detector = reduced_detector(bundle, detector_spec(bundle, folder), reduction)
    return DeployedGraph(student_from_bundle(bundle), detector)
