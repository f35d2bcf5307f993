"""The columns of `runtime.py` that want a CUDA device, and its TensorRT engines."""

from collections.abc import Callable
from pathlib import Path

from outside import TorchDeviceRunner
from precisions import PRECISIONS
from rich.progress import Progress

from bundle import BatchProfile, OnnxRunner, Runner
from bundle.parity import Precision
from bundle.runners.tensorrt import TensorRTRunner
from export.graph import Graph
from export.tensorrt import FLAVOURS, build_engine

PROFILE = BatchProfile(minimum=1, optimum=8, maximum=32)


def cuda_columns(
    graph: Graph, onnx: Callable[[Precision], Path]
) -> dict[str, Callable[[], Runner]]:
    """Return how to make the runners of this machine's CUDA device, by column."""
    found: dict[str, Callable[[], Runner]] = {
        "CUDA torch eager": lambda: TorchDeviceRunner(graph, "cuda"),
        "CUDA torch.compile": lambda: TorchDeviceRunner(graph, "cuda", compiled=True),
    }
    return found
