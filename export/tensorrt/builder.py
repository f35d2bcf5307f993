"""One builder for TensorRT 10, 11 and TensorRT for RTX."""

from pathlib import Path
from typing import Any

from rich.progress import Progress

from export.tensorrt.flavours import has_timing_cache, network_flags, set_architectures
from export.tensorrt.graph import (
    parser_errors,
    preprocessing_of,
    read_graph,
    require_precision,
)
from export.tensorrt.options import EngineOptions
from export.tensorrt.progress import progress_monitor
from export.tensorrt.timing_cache import load_timing_cache, save_timing_cache
from isogon.errors import UsageError
from isogon.runtimes import BatchProfile
from isogon.runtimes.flavours import tensorrt_log, tensorrt_module


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
