"""CUDA: which device there is, and the streams, graphs and buffers that an engine needs.

The device is found through the driver, with `ctypes` alone. The rest needs the package
`cuda-bindings`.
"""

import ctypes
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from isogon.errors import BundleError, UsageError

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaDevice:
    """A CUDA device that this process may use (CUDA_VISIBLE_DEVICES counts)."""

    name: str  # "NVIDIA H200"
    architecture: str  # "sm90"


def cuda_device(number: int = 0) -> CudaDevice | None:
    """Return a CUDA device, or None if there is no driver or no such device.

    It prints nothing and creates no CUDA context, so any process may call it.
    """
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    name = ctypes.create_string_buffer(256)
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    calls = (
        (driver.cuInit, 0),
        (driver.cuDeviceGet, ctypes.byref(handle), number),  # fails if there is none
        (driver.cuDeviceGetName, name, len(name), handle),
        (driver.cuDeviceGetAttribute, ctypes.byref(major), _MAJOR, handle),
        (driver.cuDeviceGetAttribute, ctypes.byref(minor), _MINOR, handle),
    )
    if any(call(*arguments) != 0 for call, *arguments in calls):
        return None
    return CudaDevice(
        name=name.value.decode(), architecture=f"sm{major.value}{minor.value}"
    )


def cuda_runtime() -> ModuleType:
    """Import and return `cuda.bindings.runtime`.

    Raises:
        UsageError: cuda-bindings is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise UsageError(
            "TensorRT engines need the package `cuda-bindings` to reach GPU memory. "
            "Install it with `pip install cuda-bindings`."
        ) from error
    module: ModuleType = runtime
    return module


def checked(result: tuple[Any, ...]) -> Any:
    """Return the result of a CUDA call: None, one value, or a tuple of values.

    Raises:
        BundleError: the call failed.
    """
    status, *values = result
    if status.value != 0:
        raise BundleError(
            f"A CUDA call failed with {status.name} ({status.value}). Is another "
            f"process using the GPU's memory, or is the driver older than CUDA?"
        )
    return values[0] if len(values) == 1 else tuple(values) or None


class Stream:
    """One CUDA stream, which can record its work as a graph."""

    def __init__(self) -> None:
        self._cuda = cuda_runtime()
        flags = self._cuda.cudaStreamNonBlocking  # the default stream waits for others
        self.handle = int(checked(self._cuda.cudaStreamCreateWithFlags(flags)))
        _when_gone(self, self._cuda.cudaStreamDestroy, self.handle)

    def synchronize(self) -> None:
        """Wait until everything on the stream has run."""
        checked(self._cuda.cudaStreamSynchronize(self.handle))

    def recorded(self, work: Callable[[], None]) -> "CudaGraph":
        """Record what `work` puts on the stream, without running it; return the graph."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(self._cuda.cudaStreamBeginCapture(self.handle, mode))
        try:
            work()
        finally:
            ended = self._cuda.cudaStreamEndCapture(self.handle)
        return CudaGraph(checked(ended))

    def launch(self, graph: "CudaGraph") -> None:
        """Put a recorded graph on the stream."""
        checked(self._cuda.cudaGraphLaunch(graph.handle, self.handle))


class CudaGraph:
    """Work recorded on a stream, ready to be launched any number of times."""

    def __init__(self, recorded: Any) -> None:
        cuda = cuda_runtime()
        self.handle = checked(cuda.cudaGraphInstantiate(recorded, 0))
        _when_gone(self, cuda.cudaGraphExecDestroy, self.handle)
        checked(cuda.cudaGraphDestroy(recorded))


class Buffer:
    """An array in pinned host memory, and memory of the same size on the device."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._cuda = cuda_runtime()
        template = np.empty(shape, dtype)
        self._row = template.nbytes // shape[0]
        self.device = int(checked(self._cuda.cudaMalloc(template.nbytes)))
        _when_gone(self, self._cuda.cudaFree, self.device)
        pinned = int(checked(self._cuda.cudaMallocHost(template.nbytes)))
        _when_gone(self, self._cuda.cudaFreeHost, pinned)
        memory = (ctypes.c_uint8 * template.nbytes).from_address(pinned)
        self.host = np.ndarray(shape, dtype, buffer=memoryview(memory))

    def upload(self, rows: int, stream: Stream) -> None:
        """Copy the first rows to the device, on the stream."""
        way = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(self.device, self.host.ctypes.data, rows, way, stream)

    def download(self, rows: int, stream: Stream) -> None:
        """Copy the first rows from the device, on the stream."""
        way = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(self.host.ctypes.data, self.device, rows, way, stream)

    def _copy(self, to: int, source: int, rows: int, way: Any, stream: Stream) -> None:
        size = rows * self._row
        checked(self._cuda.cudaMemcpyAsync(to, source, size, way, stream.handle))


def _when_gone(owner: object, release: Callable[[Any], Any], handle: Any) -> None:
    """Release a handle with its owner; at the end of the process the driver does it."""
    weakref.finalize(owner, release, handle).atexit = False
