"""ONNX Runtime as a runner, which checks that the provider asked for is in use."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

# From 1.29 on, ONNX Runtime reports every session to Microsoft unless this is set before it
# is loaded, and keeps an identifier of the device in the user's cache.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from isogon.errors import BundleError, UsageError
from isogon.runtimes.cuda import CudaDevice, cuda_device
from isogon.runtimes.device import Provider as Provider
from isogon.runtimes.runner import (
    How,
    Outputs,
    Pixels,
    Runner,
    Runtime,
    require_tensors,
)

# Metadata properties of an ONNX file; `isogon.bundle.metadata` explains them.
PREPROCESSING_KEY = "isogon.preprocessing"
CALIBRATION_KEY = "isogon.calibration"
FUNCTION_KEY = "isogon.function"

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_TENSORRT = ("TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")

# TF32 keeps 10 bits of a float32's 23: too few for the parity of a float32 graph.
_OPTIONS: dict[str, dict[str, Any]] = {_CUDA: {"use_tf32": "0"}}


class OnnxRunner(Runner):
    """ONNX Runtime on CPU, CUDA or TensorRT. Safe to call from several threads.

    ONNX Runtime falls back to the CPU silently, and logs errors if there is no device. So
    a device is looked for first, and the provider in use is checked afterwards; `name`
    says which it is.

    Args:
        path: the ONNX file.
        threads: of one run on the CPU; None leaves it to ONNX Runtime.
        provider: "auto" is CUDA if there is a device and ONNX Runtime can use it, else
            the CPU. "tensorrt" builds engines inside ONNX Runtime, which takes minutes
            and is for this process only. TF32 stays on there, so check parity.
        number: of the CUDA device, counted within CUDA_VISIBLE_DEVICES.

    Raises:
        BundleError: the file does not load, or has other inputs or outputs.
        UsageError: the provider is not available here.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        provider: Provider = "auto",
        number: int = 0,
    ) -> None:
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        device = None if provider == "cpu" else cuda_device(number)
        wanted = _wanted(provider, device, number)
        self._session, printed = _opened(path, options, wanted, number)
        used = self._session.get_providers()[0]
        if provider != "auto" and used != wanted[0]:
            raise UsageError(
                f"ONNX Runtime {onnxruntime.__version__} was asked for {wanted[0]} and "
                f"fell back to {used}: {printed} Install "
                f"`onnxruntime-gpu[cuda,cudnn]` (and TensorRT for `tensorrt`), or use "
                f"provider `auto`."
            )
        self.on_device = used != _CPU
        require_tensors(
            path,
            [value.name for value in self._session.get_inputs()],
            [value.name for value in self._session.get_outputs()],
        )
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.metadata = metadata
        self.preprocessing = metadata.get(PREPROCESSING_KEY)
        self.name = f"onnxruntime {onnxruntime.__version__} {used}"
        if device is not None and used != _CPU:
            self.name += f" on {device.name}"
        elif used != wanted[0]:
            self.name += f" ({wanted[0]} did not load)"

    def run(self, pixels: Pixels) -> Outputs:
        """Return embeddings [b, d] and OOD scores [b] of one batch."""
        embeddings, scores = self._session.run(None, {"images": pixels})
        return Outputs(embeddings=embeddings, ood_scores=scores)


def _opened(
    path: Path, options: onnxruntime.SessionOptions, wanted: list[str], number: int
) -> tuple[onnxruntime.InferenceSession, str]:
    """Return the session, and what ONNX Runtime printed, which stays off stdout.

    Raises:
        BundleError: the file does not load.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            if _CUDA in wanted:  # from the `nvidia-*` packages, if installed
                onnxruntime.preload_dlls()
            session = onnxruntime.InferenceSession(
                path,
                options,
                providers=[(name, _options_of(name, number)) for name in wanted],
            )
    except Exception as error:  # ONNX Runtime's error classes have no public base
        raise BundleError(
            f"{path} does not load in ONNX Runtime {onnxruntime.__version__}: "
            f"{error} Export it again with `isogon export`."
        ) from error
    return session, " ".join(printed.getvalue().split())


def _options_of(name: str, number: int) -> dict[str, Any]:
    """Return a provider's options; every provider but the CPU takes a device number."""
    chosen = {} if name == _CPU else {"device_id": str(number)}
    return chosen | _OPTIONS.get(name, {})


def _wanted(provider: Provider, device: CudaDevice | None, number: int) -> list[str]:
    """Return the providers to request, in order of preference.

    Raises:
        UsageError: the provider is not available on this machine.
    """
    listed = onnxruntime.get_available_providers()
    if provider == "cpu" or (
        provider == "auto" and (device is None or _CUDA not in listed)
    ):
        return [_CPU]
    if device is None:
        raise UsageError(
            f"Provider `{provider}` needs an NVIDIA GPU, but this process sees no CUDA "
            f"device{f' {number}' if number else ''}. Use provider `cpu`, or check the "
            f"driver (`nvidia-smi`) and CUDA_VISIBLE_DEVICES."
        )
    candidates = _TENSORRT if provider == "tensorrt" else (_CUDA,)
    found = [name for name in candidates if name in listed]
    if not found:
        raise UsageError(
            f"Provider `{provider}` is {' or '.join(candidates)}, but ONNX Runtime "
            f"{onnxruntime.__version__} has {', '.join(listed)}. Install "
            f"`onnxruntime-gpu` in place of `onnxruntime`, or use provider `cpu`."
        )
    behind = [name for name in (_CUDA, _CPU) if name in listed and name not in found]
    return [found[0], *behind]


def _open(path: Path, how: How) -> OnnxRunner:
    device = how.device
    return OnnxRunner(
        path, threads=how.threads, provider=device.provider, number=device.number
    )


ONNX_RUNTIME = Runtime(
    name="onnxruntime",
    suffix=".onnx",
    usual=True,
    open=_open,
    absent=lambda: None,  # Isogon itself needs it
)
