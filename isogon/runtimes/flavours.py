"""TensorRT in its two flavours: packages with one API, imported only when asked for.

`tensorrt` (10 and 11) is for every NVIDIA GPU and builds where the engine will run;
`tensorrt-rtx` (TensorRT for RTX) is for GeForce and RTX GPUs and builds anywhere.
"""

import functools
import importlib
import importlib.metadata
from types import ModuleType
from typing import Any, Literal

from isogon.errors import UsageError

Flavour = Literal["tensorrt", "tensorrt-rtx"]  # named as their packages are

MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}

_INSTALL: dict[Flavour, str] = {
    "tensorrt": "`pip install tensorrt cuda-bindings` and NVIDIA's package index, as its "
    "installation guide says",
    "tensorrt-rtx": "`pip install tensorrt-rtx cuda-bindings`",
}


def installed_version(package: str) -> str | None:
    """Return "major.minor" of an installed package, without importing it."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return ".".join(version.split(".")[:2])


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
    """Return the flavour's logger: `drain()` gives and forgets what went wrong.

    Warnings are dropped: TensorRT warns of what is as intended, such as strongly typed
    networks. Nothing is printed; the caller shows the errors.
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
