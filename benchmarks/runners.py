"""Runners that benchmarks compare (torch, CUDA, engines built here), and their timing."""

import contextlib
import copy
import math
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rich.progress import Progress
from students import PRECISIONS, onnx_name

from export.graph import DeployedGraph
from export.tensorrt.builder import build_engine
from export.tensorrt.options import EngineOptions, known_architectures
from isogon.errors import UsageError
from isogon.runtimes import (
    BatchProfile,
    Flavour,
    OnnxRunner,
    Outputs,
    Pixels,
    Precision,
    Runner,
    TensorRTRunner,
)
from isogon.runtimes.cuda import cuda_device
from isogon.runtimes.tensorrt import tensorrt_module

PROFILE = BatchProfile(minimum=1, optimum=8, maximum=32)
EAGER = "torch CUDA eager"
# By name: the precision, and a function that makes the runner or raises.
Makers = dict[str, tuple[Precision, Callable[[], Runner]]]
PAUSE = 0.02  # seconds for the previous runner's threads to become idle


class TorchDeviceRunner(Runner):
    """A copy of the graph in float32 torch on a device, eager or compiled.

    A compiled graph is specialised to each batch size, which is fastest.
    """

    def __init__(
        self, graph: DeployedGraph, device: str, *, compiled: bool = False
    ) -> None:
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


def cuda_runners(graph: DeployedGraph, folder: Path, *, dry: bool = False) -> Makers:
    """Return functions that make the runners of this machine's GPU, and their precision.

    The most important come first: the reference first, the slowest to compile last.

    Args:
        graph: the student; copies of it go to the device.
        folder: where its ONNX files are, or will be; engines are written below it.
        dry: there is no device; each runner fails where it needs one.
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


def engine(
    source: Path, precision: Precision, flavour: Flavour, folder: Path, *, graphs: bool
) -> TensorRTRunner:
    """Build an engine for this GPU from an ONNX file, in `folder`, and load it.

    Raises:
        UsageError: it cannot be built; the message gives the reason.
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


def engine_flavours(*, dry: bool = False) -> tuple[Flavour, ...]:
    """Return the packages that can build an engine for this GPU: at most two.

    In a dry run: for any GPU.
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


def exact_float32() -> None:
    """Switch TF32 off: torch's convolutions use it by default, and it keeps 10 bits."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def interleaved(
    runners: Mapping[str, Runner], pixels: Pixels, *, rounds: int, seconds: float
) -> dict[str, tuple[float, ...]]:
    """Return the milliseconds per image of each runner in each round.

    A round goes through all runners, each time in another order, so that other work on
    the machine affects all of them. Runners return arrays on the host, so no device is
    still working when the clock stops.

    Args:
        runners: by name; each has run these pixels before.
        pixels: one batch.
        rounds: number of rounds.
        seconds: minimum time of each runner in a round.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds):
        for name in random.Random(number).sample(sorted(runners), len(runners)):
            taken = timed(runners[name], pixels, seconds)
            times[name].append(1000 * taken / len(pixels))
    return {name: tuple(values) for name, values in times.items()}


def timed(runner: Runner, pixels: Pixels, least: float) -> float:
    """Return the mean seconds of a batch over at least `least` seconds, after one batch."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    runner.run(pixels)
    first = time.perf_counter() - start
    runs = max(1, math.ceil(least / first))
    start = time.perf_counter()
    for _ in range(runs):
        runner.run(pixels)
    return (time.perf_counter() - start) / runs


def one_line(error: Exception, most: int = 300) -> str:
    """Return an error's class and message in one line of a table, cut to `most`."""
    text = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {text[:most]}"
