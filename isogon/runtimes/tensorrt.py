"""TensorRT as a runner of engines, on an NVIDIA GPU."""

import functools
import importlib
import importlib.util
import threading
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from isogon.errors import BundleError, EngineMismatchError, UsageError
from isogon.runtimes.cuda import Buffer, CudaGraph, Stream, cuda_device
from isogon.runtimes.runner import BatchProfile, How, Outputs, Pixels, Runner, Runtime
from isogon.runtimes.stamps import (
    EngineStamp,
    Flavour,
    Machine,
    installed_version,
)

MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}

_INSTALL: dict[Flavour, str] = {
    "tensorrt": "`pip install tensorrt cuda-bindings` and NVIDIA's package index, as its "
    "installation guide says",
    "tensorrt-rtx": "`pip install tensorrt-rtx cuda-bindings`",
}

_TENSORS = {"images": "UINT8", "embedding": "FLOAT", "ood_score": "FLOAT"}
_GRAPHS = 4  # CUDA graphs kept; each has an execution context for one batch size


class TensorRTRunner(Runner):
    """A TensorRT engine on the first CUDA device. Safe to call from several threads.

    Memory for the profile's largest batch is reserved once. Larger batches are split.
    Batches below the profile's smallest are padded with their last image.

    Args:
        engine: the file, whose name is its stamp.
        graphs: replay each batch size as a CUDA graph, which saves kernel launches. A
            size is recorded at its first batch, and the last four sizes are kept;
            TensorRT for RTX does the recording itself.

    Raises:
        EngineMismatchError: there is no CUDA device, or the stamp names another GPU or
            version. This is checked before any TensorRT object exists.
        UsageError: a package is not installed.
        BundleError: the engine does not load, or has other inputs or outputs.
    """

    on_device = True
    profile: BatchProfile

    def __init__(self, engine: Path, *, graphs: bool = False) -> None:
        stamp = EngineStamp.from_name(engine.name)
        device = cuda_device()
        if device is None:
            raise EngineMismatchError(
                f"{engine} is a TensorRT engine and runs on an NVIDIA GPU, but this "
                f"process sees no CUDA device. Serve the ONNX graph instead, or look at "
                f"the driver (`nvidia-smi`) and at CUDA_VISIBLE_DEVICES."
            )
        stamp.require_match(Machine.here())
        self._tensorrt = tensorrt_module(stamp.package)
        self._stream = Stream()  # before the engine: it creates the CUDA context they share
        self._log = tensorrt_log(stamp.package)
        self._engine = self._deserialized(engine, stamp)
        self._require_tensors(engine)
        shapes = self._engine.get_tensor_profile_shape("images", 0)
        self.profile = BatchProfile(
            minimum=shapes[0][0], optimum=shapes[1][0], maximum=shapes[2][0]
        )
        self._image = tuple(shapes[2])[1:]
        width = self._engine.get_tensor_shape("embedding")[1]
        most = self.profile.maximum
        self._images = Buffer((most, *self._image), np.uint8)
        self._outputs = {
            "embedding": Buffer((most, width), np.float32),
            "ood_score": Buffer((most,), np.float32),
        }
        self._rtx = stamp.flavour == "rtx"
        self._replays = graphs
        self._graphs: OrderedDict[int, tuple[CudaGraph, Any]] = OrderedDict()
        self._context = self._new_context()
        self._lock = threading.Lock()
        # The builder names the network after the preprocessing of its pixels.
        self.preprocessing = self._engine.name
        version = installed_version(stamp.package)
        self.name = f"{stamp.package} {version} {stamp.precision} on {device.name}"

    def run(self, pixels: Pixels) -> Outputs:
        """Return embeddings [b, d] and OOD scores [b] of one batch of any size."""
        if pixels.shape[1:] != self._image:
            raise BundleError(
                f"{self.name} takes pixels of shape {self._image}, got "
                f"{pixels.shape[1:]}. Preprocess them as the manifest says."
            )
        found = {
            name: np.empty((len(pixels), *buffer.host.shape[1:]), np.float32)
            for name, buffer in self._outputs.items()
        }
        with self._lock:
            for start in range(0, len(pixels), self.profile.maximum):
                part = pixels[start : start + self.profile.maximum]
                self._run(part)
                for name, buffer in self._outputs.items():
                    found[name][start : start + len(part)] = buffer.host[: len(part)]
        return Outputs(embeddings=found["embedding"], ood_scores=found["ood_score"])

    def _run(self, pixels: Pixels) -> None:
        """Run a batch of at most the profile's largest; the outputs are in the buffers."""
        size = max(len(pixels), self.profile.minimum)
        self._images.host[: len(pixels)] = pixels
        self._images.host[len(pixels) : size] = pixels[-1]
        if self._replays and not self._rtx:
            self._stream.launch(self._recorded(size))
        else:
            self._enqueue(self._context, size)
        self._stream.synchronize()

    def _enqueue(self, context: Any, size: int) -> None:
        """Put upload, execution and downloads of one batch on the stream."""
        self._images.upload(size, self._stream)
        context.set_input_shape("images", (size, *self._image))
        if not context.execute_async_v3(self._stream.handle):
            raise BundleError(f"{self.name} did not run: {self._log.drain()}")
        for buffer in self._outputs.values():
            buffer.download(size, self._stream)

    def _recorded(self, size: int) -> CudaGraph:
        """Return the graph of a batch size, with the context it was recorded with.

        A graph is valid while nothing else uses its context, so each has its own:
        https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html
        """
        if size not in self._graphs:
            context = self._new_context()
            self._enqueue(context, size)  # the first run sets up the shape
            self._stream.synchronize()
            graph = self._stream.recorded(lambda: self._enqueue(context, size))
            self._graphs[size] = (graph, context)
            if len(self._graphs) > _GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(size)
        return self._graphs[size][0]

    def _new_context(self) -> Any:
        """Return an execution context that reads and writes the buffers."""
        if self._rtx:
            context = self._engine.create_execution_context(self._rtx_config())
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise BundleError(
                f"The GPU has no room for an execution context: {self._log.drain()} "
                f"Free memory, or build the engine for a smaller largest batch."
            )
        for name, buffer in {"images": self._images, **self._outputs}.items():
            context.set_tensor_address(name, buffer.device)
        return context

    def _rtx_config(self) -> Any:
        """Return the settings of TensorRT for RTX, which compiles its kernels here.

        With EAGER, kernels for a batch size are compiled before its first run. By default
        they are replaced some time later, and then answers change by rounding between two
        runs. TensorRT for RTX records CUDA graphs itself, so we do not.
        """
        config = self._engine.create_runtime_config()
        eager = self._tensorrt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        if self._replays:
            whole = self._tensorrt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            config.cuda_graph_strategy = whole
        return config

    def _deserialized(self, path: Path, stamp: EngineStamp) -> Any:
        runtimes = [self._tensorrt.Runtime(self._log)]
        if stamp.needs_lean:
            runtimes.append(runtimes[0].load_runtime(_lean_library()))
        runtime = runtimes[-1]
        engine = runtime and runtime.deserialize_cuda_engine(path.read_bytes())
        if not engine:
            raise BundleError(
                f"{path} does not load in {stamp.package}: {self._log.drain()} "
                f"Build it again on this machine with `isogon export`."
            )
        self._runtimes = runtimes  # they have to live as long as the engine
        return engine

    def _require_tensors(self, path: Path) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        found = {name: engine.get_tensor_dtype(name).name for name in names}
        if found != _TENSORS:
            raise BundleError(
                f"{path} should map {_TENSORS}, its tensors are {found}. "
                f"Build it with `isogon export`."
            )


def tensorrt_module(flavour: Flavour) -> ModuleType:
    """Import and return the flavour's Python API.

    Raises:
        UsageError: it is not installed, or its libraries do not load.
    """
    try:
        return importlib.import_module(MODULES[flavour])
    except (ImportError, OSError) as error:
        raise UsageError(
            f"This needs the package `{flavour}`, which cannot be imported here: "
            f"{error}. Install it with {_INSTALL[flavour]}."
        ) from error


@functools.cache  # TensorRT keeps the first logger of a process and refuses others
def tensorrt_log(flavour: Flavour) -> Any:
    """Return the flavour's logger; its `drain()` returns the errors and clears them.

    Warnings are dropped, because TensorRT warns about intended settings, such as strongly
    typed networks. Nothing is printed; the caller shows the errors.
    """
    tensorrt = tensorrt_module(flavour)

    class ErrorLog(tensorrt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.ERROR, tensorrt.ILogger.INTERNAL_ERROR):
                self._errors.append(message.strip())

        def drain(self) -> str:
            """Return the errors since the last call, in one line each."""
            errors, self._errors = self._errors, []
            return "\n".join(errors) or "TensorRT gave no reason."

    return ErrorLog()


def _lean_library() -> str:
    """Return the path of TensorRT's lean runtime; the stamp has checked its version."""
    package = importlib.util.find_spec("tensorrt_lean_libs")
    folders = (package and package.submodule_search_locations) or []
    found = [path for folder in folders for path in Path(folder).glob("*nvinfer_lean*")]
    if not found:
        raise UsageError(
            "TensorRT's lean runtime is installed without its libraries. "
            "Install `tensorrt-lean` from NVIDIA's package index."
        )
    return str(found[0])


def _open(path: Path, how: How) -> TensorRTRunner:
    """Open an engine, on the first GPU.

    Raises:
        UsageError: `how` names another device.
    """
    if how.device.provider == "cpu" or how.device.number:
        raise UsageError(
            f"{path.name} is a TensorRT engine and runs on the first GPU, not on device "
            f"{how.device}. Choose a GPU with CUDA_VISIBLE_DEVICES, or serve "
            f"onnx/model.onnx."
        )
    return TensorRTRunner(path, graphs=how.graphs)


TENSORRT = Runtime(
    name="tensorrt",  # of either flavour; the engine's stamp names it
    suffix=".engine",
    usual=True,
    open=_open,
    absent=lambda: None,  # the stamp's check has a better message
)
