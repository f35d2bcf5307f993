"""One builder for TensorRT 10, 11 and TensorRT for RTX; timings kept, work shown."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from export.tensorrt.graph import (
    parser_errors,
    preprocessing_of,
    read_graph,
    require_precision,
)
from export.tensorrt.options import (
    EngineOptions,
    has_timing_cache,
    network_flags,
    set_architectures,
)
from isogon.errors import UsageError
from isogon.progress import Progress
from isogon.runtimes import BatchProfile, Flavour
from isogon.runtimes.stamps import tensorrt_log, tensorrt_module


def usual_timing_cache() -> Path | None:
    """Return where timings are kept for this user; None for one without a home."""
    try:
        return Path.home() / ".cache" / "isogon" / "tensorrt-timing.cache"
    except RuntimeError:
        return None


def load_timing_cache(config: Any, path: Path) -> None:
    """Give the build the timings in `path`, or an empty cache if they do not fit.

    They fit if they are of the same GPU and version; TensorRT judges that itself.
    """
    known = path.read_bytes() if path.is_file() else b""
    for content in (known, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def save_timing_cache(config: Any, path: Path) -> None:
    """Leave the build's timings in `path`, in one step: another build may be reading.

    Where nothing can be written they are lost; the engine is not.
    """
    cache = config.get_timing_cache()
    if cache is None:
        return
    pending = path.with_name(f".{path.name}.{os.getpid()}.pending")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        pending.write_bytes(bytes(cache.serialize()))
        pending.replace(path)


def progress_monitor(flavour: Flavour, progress: Progress) -> Any:
    """Return an `IProgressMonitor` of the flavour that draws on `progress`.

    Each phase is a bar below its parent's, and goes when it is done; the outermost stay.
    Ctrl-C during a build stops it at the next step: `interrupted` is then true, because
    no exception passes through TensorRT. Phases may come from several threads.
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

    The network is strongly typed, so precision is the graph's. TF32 is off in every
    precision: where the graph says float32, sums of products keep its 23 bits.

    Args:
        onnx_path: a graph that `isogon export` wrote, in any precision.
        options: flavour, precision, and where the engine shall run.
        profile: the batch sizes it shall answer, and the one it shall be fastest at.
        progress: where TensorRT's phases are shown.
        timing_cache: a file to take kernel timings from, if they were measured on such
            a GPU, and to leave them in. TensorRT for RTX measures none.
        workspace: bytes of GPU memory a layer may use for scratch; None: all there is.

    Raises:
        UsageError: the options do not go with this machine, the file is no such graph,
            or TensorRT cannot build it; the message says which node, and why.
    """
    stamp = options.stamp()  # before any TensorRT object: TensorRT needs a device
    model = read_graph(onnx_path)
    require_precision(model, options.precision, onnx_path)
    tensorrt = tensorrt_module(options.flavour)
    log = tensorrt_log(options.flavour)
    log.drain()
    builder = tensorrt.Builder(log)
    network = builder.create_network(network_flags(options.flavour))
    parser = tensorrt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_path)):
        raise UsageError(
            f"{options.flavour} cannot take {onnx_path}: {parser_errors(parser, model)}. "
            f"Serve the ONNX graph, or choose another student."
        )
    network.name = preprocessing_of(model)  # which the runner asks the engine for
    config = builder_config(builder, options)
    if workspace is not None:
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, workspace)
    config.add_optimization_profile(_shapes(builder, network, profile))
    monitor = progress_monitor(options.flavour, progress)
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
    """Return the builder's configuration for `options`, profile and progress apart."""
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
        # The plan would carry a library, and a bundle holds nothing executable (rule 3).
        config.set_flag(tensorrt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    return config


def _shapes(builder: Any, network: Any, profile: BatchProfile) -> Any:
    image = tuple(network.get_input(0).shape)[1:]
    shapes = builder.create_optimization_profile()
    sizes = (profile.minimum, profile.optimum, profile.maximum)
    shapes.set_shape("images", *((size, *image) for size in sizes))
    return shapes
