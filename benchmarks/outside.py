"""Another way to run a student, as a runner: torch, eager or compiled, on a device."""

import copy

import torch

from export.graph import Graph
from isogon.runtimes import Outputs, Pixels, Runner


class TorchDeviceRunner(Runner):
    """A copy of the graph in float32 torch on a device, eager or compiled.

    A compiled graph is specialised to each batch size, which is the fastest it can be.
    """

    def __init__(self, graph: Graph, device: str, *, compiled: bool = False) -> None:
        self._graph = copy.deepcopy(graph).eval().to(device)
        self._call = torch.compile(self._graph, dynamic=False) if compiled else self._graph
        self._device = device
        way = "compiled" if compiled else "eager"
        self.name = f"torch {torch.__version__} {way} float32 on {device}"

    def run(self, pixels: Pixels) -> Outputs:
        """Return embeddings [b, d] and OOD scores [b] of one batch, on the host."""
        with torch.inference_mode():
            embeddings, scores = self._call(torch.from_numpy(pixels).to(self._device))
        return Outputs(embeddings=embeddings.cpu().numpy(), ood_scores=scores.cpu().numpy())
