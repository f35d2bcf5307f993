"""Build an engine from an ONNX file with TensorRT 10, 11 or TensorRT for RTX.

The ONNX file is checked first; kernel timings are cached; progress is shown as bars.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import onnx

from export.onnx.reading import module_of, precision_of, read_onnx
from export.tensorrt.options import (
    EngineOptions,
    has_timing_cache,
    network_flags,
    set_architectures,
)
from isogon.errors import UsageError
from isogon.progress import Progress
from isogon.runtimes import PREPROCESSING_KEY, BatchProfile, Flavour, Precision
from isogon.runtimes.tensorrt import tensorrt_log, tensorrt_module


def build_engine(
    onnx_path: Path,
    options: EngineOptions,
    *,
    profile: BatchProfile,
    progress: Progress,
    timing_cache: Path | None = None,
    workspace: int | None = None,
) -> bytes:
    """Return the engine of an ONNX graph; `options.stamp()` is its name.

    The network is strongly typed, so the precision is the graph's. TF32 is off in every
    precision: float32 products keep their 23 bits.

    Args:
        onnx_path: a graph that `isogon export` wrote, in any precision.
        options: flavour, precision, and the GPUs that the engine is for.
        profile: the range of batch sizes, and the size to optimise for.
        progress: where TensorRT's phases are shown.
        timing_cache: a file of kernel timings to read, if they are of such a GPU, and
            to update. TensorRT for RTX measures none.
        workspace: bytes of GPU scratch memory for a layer; None: no limit.

    Raises:
        UsageError: the options do not fit this machine, the file is not such a graph, or
            TensorRT cannot build it; the message names the node and the reason.
    """
    stamp = options.stamp()  # before any TensorRT object: TensorRT needs a device
    model = _read_graph(onnx_path)
    _require_precision(model, options.precision, onnx_path)
    tensorrt = tensorrt_module(options.flavour)
    log = tensorrt_log(options.flavour)
    log.drain()
    builder = tensorrt.Builder(log)
    network = builder.create_network(network_flags(options.flavour))
    parser = tensorrt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_path)):
        raise UsageError(
            f"{options.flavour} cannot parse {onnx_path}: {_parser_errors(parser, model)}. "
            f"Serve the ONNX graph, or choose another student."
        )
    network.name = _preprocessing_in(model)  # the runner reads it from the engine
    config = builder_config(builder, options)
    if workspace is not None:
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, workspace)
    config.add_optimization_profile(_shapes(builder, network, profile))
    monitor = _progress_monitor(options.flavour, progress)
    config.progress_monitor = monitor
    cached = timing_cache if has_timing_cache(options.flavour) else None
    if cached is not None:
        load_timing_cache(config, cached)
    plan = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise UsageError(
            f"{options.flavour} could not build {stamp.name} from {onnx_path}: "
            f"{log.drain()}"
        )
    if cached is not None:
        save_timing_cache(config, cached)
    return bytes(plan)


def builder_config(builder: Any, options: EngineOptions) -> Any:
    """Return the builder's configuration for `options`, without profile and progress."""
    tensorrt = tensorrt_module(options.flavour)
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    if options.flavour == "tensorrt-rtx":
        set_architectures(config, tuple(options.stamp().gpu.split("+")))
    if options.hardware_compatible:
        level = tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS
        config.hardware_compatibility_level = level
    if options.version_compatible:
        config.set_flag(tensorrt.BuilderFlag.VERSION_COMPATIBLE)
        # The plan would contain a library, and a bundle holds nothing executable (rule 3).
        config.set_flag(tensorrt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    return config


def _shapes(builder: Any, network: Any, profile: BatchProfile) -> Any:
    image = tuple(network.get_input(0).shape)[1:]
    shapes = builder.create_optimization_profile()
    sizes = (profile.minimum, profile.optimum, profile.maximum)
    shapes.set_shape("images", *((size, *image) for size in sizes))
    return shapes


def _read_graph(path: Path) -> onnx.ModelProto:
    """Return the ONNX model in `path`.

    Raises:
        UsageError: there is none, or `images` is not its only input.
    """
    model = read_onnx(path)
    inputs = [value.name for value in model.graph.input]
    if inputs != ["images"]:
        raise UsageError(
            f"{path} must have the single input `images`, it has {inputs}. Write it with "
            f"`isogon export`."
        )
    return model


def _require_precision(model: onnx.ModelProto, precision: Precision, path: Path) -> None:
    """Raise `UsageError` unless the graph has the types of `precision`.

    Networks are strongly typed: TensorRT computes in the graph's types, so the engine's
    stamp must name the graph's precision.
    """
    found = precision_of(model)
    if found != precision:
        raise UsageError(
            f"{path} computes in {found}, and an engine keeps the types of its graph, so "
            f"it cannot be a {precision} engine. Build it from the {precision} graph."
        )


def _preprocessing_in(model: onnx.ModelProto) -> str:
    """Return the preprocessing in the graph's metadata, as JSON, or ""."""
    found: dict[str, str] = {entry.key: entry.value for entry in model.metadata_props}
    return found.get(PREPROCESSING_KEY, "")


def _parser_errors(parser: Any, model: onnx.ModelProto) -> str:
    """Return the parser's errors: operator, node, torch module and reason."""
    nodes = {node.name: node for node in model.graph.node}
    lines = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        place = ""
        if error.node_operator():
            place = f"{error.node_operator()} node {error.node_name()!r}"
            node = nodes.get(error.node_name())
            module = "" if node is None else module_of(node)
            place += f" (torch module {module}): " if module else ": "
        reason = " ".join(error.desc().split())
        lines.append(f"{place}{reason} ({error.code().name})")
    return "; ".join(lines)


def usual_timing_cache() -> Path | None:
    """Return this user's file of timings; None for a user without a home folder."""
    try:
        return Path.home() / ".cache" / "isogon" / "tensorrt-timing.cache"
    except RuntimeError:
        return None


def load_timing_cache(config: Any, path: Path) -> None:
    """Give the build the timings in `path`, or an empty cache if TensorRT rejects them.

    TensorRT accepts timings of the same GPU and version.
    """
    known = path.read_bytes() if path.is_file() else b""
    for content in (known, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def save_timing_cache(config: Any, path: Path) -> None:
    """Write the build's timings to `path` in one step: another build may be reading.

    If the file cannot be written, the timings are lost but the engine is built.
    """
    cache = config.get_timing_cache()
    if cache is None:
        return
    pending = path.with_name(f".{path.name}.{os.getpid()}.pending")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        pending.write_bytes(bytes(cache.serialize()))
        pending.replace(path)


def _progress_monitor(flavour: Flavour, progress: Progress) -> Any:
    """Return an `IProgressMonitor` of the flavour that shows its phases in `progress`.

    Each phase is a bar below its parent's and is removed when done; outermost ones stay.
    Ctrl-C during a build stops it at the next step. No exception passes through TensorRT,
    so `interrupted` is then true. Phases may come from several threads.
    """
    tensorrt = tensorrt_module(flavour)

    class PhaseBars(tensorrt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._open: dict[str, tuple[Any, int, int]] = {}  # phase -> bar, depth, steps

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            with self._noting_interrupts():
                depth = self._open[parent][1] + 1 if parent in self._open else 0
                bar = progress.add_task("  " * depth + phase, total=steps)
                self._open[phase] = (bar, depth, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            with self._noting_interrupts():
                if phase in self._open:
                    progress.update(self._open[phase][0], completed=step + 1)
            return not self.interrupted

        def phase_finish(self, phase: str) -> None:
            with self._noting_interrupts():
                bar, depth, steps = self._open.pop(phase)
                if depth:
                    progress.remove_task(bar)
                else:
                    progress.update(bar, completed=steps)

        @contextmanager
        def _noting_interrupts(self) -> Iterator[None]:
            try:
                yield
            except KeyboardInterrupt:
                self.interrupted = True

    return PhaseBars()
