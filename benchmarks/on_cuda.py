"""Runners that want a CUDA device: torch, ONNX Runtime's provider, engines built here."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch
from outside import TorchDeviceRunner
from precisions import PRECISIONS, onnx_name
from rich.progress import Progress

from export.graph import Graph
from export.tensorrt import EngineOptions, build_engine
from export.tensorrt.options import known_architectures
from isogon.errors import UsageError
from isogon.runtimes import (
    BatchProfile,
    Flavour,
    OnnxRunner,
    Precision,
    Runner,
    TensorRTRunner,
)
from isogon.runtimes.cuda import cuda_device
from isogon.runtimes.stamps import tensorrt_module

PROFILE = BatchProfile(minimum=1, optimum=8, maximum=32)
EAGER = "torch CUDA eager"

# By name: the precision, and how to make the runner, which may fail.
Makers = dict[str, tuple[Precision, Callable[[], Runner]]]


def exact_float32() -> None:
    """Switch TF32 off, which torch's convolutions use by default: it keeps 10 bits."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def engine_flavours(*, dry: bool = False) -> tuple[Flavour, ...]:
    """Return by which packages an engine for this GPU can be built here: at best two.

    In a dry run, for any GPU.
    """
    device = cuda_device()
    found: list[Flavour] = []
    with contextlib.suppress(UsageError):  # it is not installed, or does not load
        tensorrt_module("tensorrt")
        found.append("tensorrt")
    with contextlib.suppress(UsageError):
        known = known_architectures()
        if dry or (device is not None and device.architecture in known):
            found.append("tensorrt-rtx")
    return tuple(found)


def engine(
    source: Path, precision: Precision, flavour: Flavour, folder: Path, *, graphs: bool
) -> TensorRTRunner:
    """Build an engine for this GPU from an ONNX file, in `folder`, and load it.

    Raises:
        UsageError: it cannot be built; the message says why.
        EngineMismatchError: there is no CUDA device.
        BundleError: it does not load.
    """
    device = cuda_device()
    chosen = (device.architecture,) if device and flavour == "tensorrt-rtx" else ()
    options = EngineOptions(flavour=flavour, precision=precision, architectures=chosen)
    path = folder / options.stamp().name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        plan = build_engine(
            source,
            options,
            profile=PROFILE,
            progress=Progress(disable=True),
            timing_cache=folder / "timings",
        )
        path.write_bytes(plan)
    return TensorRTRunner(path, graphs=graphs)


def cuda_runners(graph: Graph, folder: Path, *, dry: bool = False) -> Makers:
    """Return how to make the runners of this machine's CUDA device, and their precision.

    They come by worth: what is compared with first, and what compiles for long last.

    Args:
        graph: the student; copies of it go to the device.
        folder: where its ONNX files are, or will be; engines go below it.
        dry: there is no device, and each stops where it wants one.
    """

    def provider(precision: Precision) -> Callable[[], Runner]:
        return lambda: OnnxRunner(folder / onnx_name(precision), provider="cuda")

    def built(precision: Precision, flavour: Flavour) -> Callable[[], Runner]:
        source = folder / onnx_name(precision, "tensorrt")
        return lambda: engine(source, precision, flavour, folder / "engines", graphs=True)

    found: Makers = {EAGER: ("fp32", lambda: TorchDeviceRunner(graph, "cuda"))}
    for flavour in engine_flavours(dry=dry):
        for precision in PRECISIONS:
            found[f"{flavour} {precision}"] = (precision, built(precision, flavour))
    for precision in PRECISIONS:
        found[f"ONNX CUDA {precision}"] = (precision, provider(precision))
    compiled = "torch CUDA compiled"
    found[compiled] = ("fp32", lambda: TorchDeviceRunner(graph, "cuda", compiled=True))
    return found
