"""OpenVINO as a runner of ONNX files, on the CPU.

It reads the ONNX file itself, not a converted copy. So one file has one hash, and for
each runtime one parity report and one calibration.
"""

import importlib.util
import threading
from pathlib import Path
from typing import Any

from isogon.errors import BundleError, UsageError
from isogon.runtimes.device import usable_cores
from isogon.runtimes.onnx import PREPROCESSING_KEY
from isogon.runtimes.runner import (
    How,
    Outputs,
    Pixels,
    Runner,
    Runtime,
    require_tensors,
)

_PACKAGE = "openvino"
_DEVICE = "CPU"


class OpenVinoRunner(Runner):
    """An ONNX file on OpenVINO's CPU plugin. Safe to call from several threads.

    Float32 is requested, because by default OpenVINO computes float32 graphs in bfloat16
    on a CPU that has instructions for it. Int8 operations of the file stay int8.

    Args:
        path: the ONNX file.
        threads: of one run; several runs then share the cores. None: one run at a time
            uses all cores.
        float32: request float32; only a benchmark sets it to False.

    Raises:
        UsageError: OpenVINO is not installed.
        BundleError: the file does not load, or has other inputs or outputs.
    """

    def __init__(
        self, path: Path, *, threads: int | None = None, float32: bool = True
    ) -> None:
        openvino = _module()
        version = openvino.__version__.partition("-")[0]
        core = openvino.Core()
        try:
            model = core.read_model(path)
            require_tensors(
                path,
                [value.any_name for value in model.inputs],
                [value.any_name for value in model.outputs],
            )
            self._compiled = core.compile_model(
                model, _DEVICE, _settings(threads, float32=float32)
            )
        except RuntimeError as error:
            raise BundleError(
                f"{path} does not load in OpenVINO {version}: {error} Serve it with "
                f"ONNX Runtime, or export it again with `isogon export`."
            ) from error
        self._requests = threading.local()  # each runs one batch at a time
        self.metadata = _metadata(model)
        self.preprocessing = self.metadata.get(PREPROCESSING_KEY)
        self.precision: str = self._compiled.get_property(
            "INFERENCE_PRECISION_HINT"
        ).get_type_name()
        chip = str(core.get_property(_DEVICE, "FULL_DEVICE_NAME")).strip()
        self.name = f"openvino {version} {_DEVICE} {self.precision} on {chip}"

    def run(self, pixels: Pixels) -> Outputs:
        """Return embeddings [b, d] and OOD scores [b] of one batch."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        found = self._requests.own.infer({"images": pixels})
        return Outputs(embeddings=found["embedding"], ood_scores=found["ood_score"])


def _module() -> Any:
    try:
        return importlib.import_module(_PACKAGE)
    except (ImportError, OSError) as error:  # or its libraries do not load
        raise UsageError(
            f"The runtime `openvino` needs the package `openvino`, which cannot be "
            f"imported here: {error}. Install it with `pip install openvino`."
        ) from error


def _settings(threads: int | None, *, float32: bool) -> dict[str, Any]:
    """Return the plugin's settings: all runs together use at most the process's cores.

    Threads are not pinned to cores, because other processes may use these.
    """
    cores = usable_cores()
    runs = 1 if threads is None else max(1, cores // threads)
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": runs,
        "INFERENCE_NUM_THREADS": cores if threads is None else runs * threads,
        "ENABLE_CPU_PINNING": False,
    }
    if float32:
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    return settings


def _metadata(model: Any) -> dict[str, str]:
    """Return the ONNX file's metadata properties, which OpenVINO keeps as `framework`."""
    if not model.has_rt_info(["framework"]):
        return {}
    names = model.get_rt_info(["framework"]).value
    return {
        name: str(model.get_rt_info(["framework", name]).value) for name in sorted(names)
    }


def _open(path: Path, how: How) -> OpenVinoRunner:
    """Open an ONNX file, on the CPU.

    Raises:
        UsageError: `how` names another device.
    """
    if how.device.provider not in ("auto", "cpu"):
        raise UsageError(
            f"OpenVINO runs {path.name} on the CPU, not on device {how.device}. Leave "
            f"ISOGON_DEVICE at auto, or serve an artifact of another runtime."
        )
    return OpenVinoRunner(path, threads=how.threads)


def _absent() -> str | None:
    if importlib.util.find_spec(_PACKAGE) is not None:
        return None
    return (
        "The package `openvino` is not installed. Install it with `pip install openvino`."
    )


OPENVINO = Runtime(
    name="openvino",
    suffix=".onnx",
    usual=False,
    open=_open,
    absent=_absent,
)
