"""The list of all runtimes. A new one is a module, and one name here."""

from pathlib import Path

from isogon.errors import UsageError
from isogon.runtimes.onnx import ONNX_RUNTIME
from isogon.runtimes.openvino import OPENVINO
from isogon.runtimes.runner import Runtime
from isogon.runtimes.tensorrt import TENSORRT

RUNTIMES = (ONNX_RUNTIME, OPENVINO, TENSORRT)


def other_runtimes() -> tuple[Runtime, ...]:
    """Return the runtimes that run a file only if they are named."""
    return tuple(runtime for runtime in RUNTIMES if not runtime.usual)


def runtime_for(file: Path, name: str | None = None) -> Runtime:
    """Return the runtime of that name for a file, or the default one.

    Raises:
        UsageError: no runtime of that name opens such a file.
    """
    fitting = [runtime for runtime in RUNTIMES if runtime.suffix == file.suffix]
    for runtime in fitting:
        if runtime.name == name or (name is None and runtime.usual):
            return runtime
    known = ", ".join(runtime.name for runtime in fitting) or "none"
    raise UsageError(
        f"Expected a runtime that opens {file.name}, got {name or file.suffix}. "
        f"Known runtimes: {known}."
    )
