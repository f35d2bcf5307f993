"""OpenVINO as a runner of ONNX files, on the CPU.

It reads the ONNX file itself rather than a converted copy: one file has one hash, one
report and one calibration for each runtime, and nothing can get out of step.
"""

import importlib.util
import threading
from pathlib import Path
from typing import Any

from isogon.errors import BundleError, UsageError
from isogon.runtimes.device import usable_cores
from isogon.runtimes.onnx import PREPROCESSING_KEY
from isogon.runtimes.runner import How, Outputs, Pixels, Runner, Runtime

_PACKAGE = "openvino"
_DEVICE = "CPU"


class OpenVinoRunner(Runner):
    """An ONNX file on OpenVINO's CPU plugin. Safe to call from several threads.

    Float32 is asked for: by itself OpenVINO computes float32 graphs in bfloat16 where the
    CPU has instructions for it. What is int8 in the file stays int8.

    Args:
        path: the ONNX file.
        threads: of one run; as many runs go side by side as the cores allow. None: one
            run at a time has all cores.
        float32: asked for; only a benchmark leaves it out.

    Raises:
        UsageError: OpenVINO is not installed.
        BundleError: the file does not load, or is no graph of Isogon.
    """

    def __init__(
        self, path: Path, *, threads: int | None = None, float32: bool = True
    ) -> None:
        openvino = _module()
        version = openvino.__version__.partition("-")[0]
        core = openvino.Core()
        try:
            model = core.read_model(path)
            self._require_tensors(path, model)
            self._compiled = core.compile_model(
                model, _DEVICE, _settings(threads, float32=float32)
            )
        except RuntimeError as error:
            raise BundleError(
                f"{path} does not load in OpenVINO {version}: {error} Serve it by ONNX "
                f"Runtime, or export it again with `isogon export`."
            ) from error
        self._requests = threading.local()  # one request runs one batch at a time
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

    @staticmethod
    def _require_tensors(path: Path, model: Any) -> None:
        inputs = [value.any_name for value in model.inputs]
        outputs = [value.any_name for value in model.outputs]
        if inputs != ["images"] or outputs != ["embedding", "ood_score"]:
            raise BundleError(
                f"{path} should map `images` to `embedding` and `ood_score`, "
                f"it maps {inputs} to {outputs}. Export it with `isogon export`."
            )


def _module() -> Any:
    try:
        return importlib.import_module(_PACKAGE)
    except (ImportError, OSError) as error:  # or its libraries do not load
        raise UsageError(
            f"The runtime `openvino` needs the package `openvino`, which cannot be "
            f"imported here: {error}. Install it with `pip install openvino`."
        ) from error


def _settings(threads: int | None, *, float32: bool) -> dict[str, Any]:
    """Return the plugin's settings: all runs together keep no more cores busy than ours.

    Threads are not pinned to cores, on which other processes may be at work.
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
    """Return the ONNX file's metadata properties, which OpenVINO keeps beside its own."""
    if not model.has_rt_info(["framework"]):
        return {}
    names = model.get_rt_info(["framework"]).value
    return {
        name: str(model.get_rt_info(["framework", name]).value) for name in sorted(names)
    }


def _open(path: Path, how: How) -> OpenVinoRunner:
    """Open an ONNX file, on the CPU.

    Raises:
        UsageError: another device is asked for.
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
