"""Other ways to run a student, as runners: compiled, on CUDA, and by OpenVINO."""

import copy
from pathlib import Path

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


class OpenVinoRunner(Runner):
    """An ONNX file on OpenVINO's CPU plugin, with the hint for latency.

    It is not to be trusted with int8: 2026.4.1 answers our files of
    tf_efficientnet_lite0 with a cosine of 0.35 to float32 where ONNX Runtime has 0.993,
    and with 0.993 too as soon as what the Clips give are outputs, which it then cannot
    fuse into the convolutions.

    Args:
        path: an ONNX artifact.
        threads: of the inference.
        float32: asked for; without it OpenVINO computes in bfloat16 where the CPU has
            instructions for it.
    """

    def __init__(self, path: Path, *, threads: int, float32: bool = True) -> None:
        import openvino

        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if float32:
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        self._model = openvino.Core().compile_model(path, "CPU", settings)
        self.precision: str = self._model.get_property(
            "INFERENCE_PRECISION_HINT"
        ).get_type_name()
        release = openvino.__version__.partition("-")[0]
        self.name = f"openvino {release} CPU {self.precision}"

    def run(self, pixels: Pixels) -> Outputs:
        """Return embeddings [b, d] and OOD scores [b] of one batch."""
        found = self._model({"images": pixels})
        return Outputs(embeddings=found["embedding"], ood_scores=found["ood_score"])
