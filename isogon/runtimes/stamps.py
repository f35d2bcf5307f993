"""TensorRT engines: the stamp in a file's name, and whether this machine can run it.

There are two flavours. `tensorrt` (10 and 11) is for every NVIDIA GPU, and an engine is
built where it will run. `tensorrt-rtx` (TensorRT for RTX) is for GeForce and RTX GPUs, and
an engine is built anywhere.

An engine's file name is its stamp, `engines/<gpu>-<flavour><version>-<precision>.engine`:
`sm90-trt10.13-fp16`, or for several GPUs `sm86+sm89-rtx1.7-fp16`. `up` after a GPU or a
version means "and every later one": `sm80up-trt11.4up-fp32`. The stamp is checked before
any TensorRT object is made, because TensorRT itself ends the process on some mismatches.
"""

import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from isogon.errors import EngineMismatchError
from isogon.runtimes.cuda import cuda_device
from isogon.runtimes.runner import Precision

Flavour = Literal["tensorrt", "tensorrt-rtx"]  # named after their packages

FLAVOURS: dict[str, Flavour] = {"trt": "tensorrt", "rtx": "tensorrt-rtx"}

# The one library that runs an engine of another version; see `EngineStamp.needs_lean`.
LEAN = "lean"
_LEAN_PACKAGES = ("tensorrt-lean", "tensorrt-lean-cu13-libs", "tensorrt-lean-cu12-libs")

_STAMP = re.compile(
    r"(?P<gpu>sm\d+(?:(?:\+sm\d+)*|up))"
    r"-(?P<flavour>trt|rtx)(?P<version>\d+\.\d+(?:up)?)"
    r"-(?P<precision>fp32|fp16|int8)\.engine"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What an engine depends on: the GPU's architecture and the TensorRT versions."""

    gpu: str | None  # "sm90"; None without a CUDA device
    versions: dict[str, str]  # flavour -> "major.minor" of what is installed

    @classmethod
    def here(cls) -> "Machine":
        """Describe the machine this process runs on."""
        device = cuda_device()
        found = {name: installed_version(package) for name, package in FLAVOURS.items()}
        found[LEAN] = next(filter(None, map(installed_version, _LEAN_PACKAGES)), None)
        return cls(
            gpu=None if device is None else device.architecture,
            versions={name: version for name, version in found.items() if version},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStamp:
    """Where an engine can run, as its file name states."""

    name: str
    gpu: str  # "sm90", "sm86+sm89", "sm80up"
    flavour: str  # "trt" or "rtx"
    version: str  # "10.13", "10.13up"
    precision: Precision

    @classmethod
    def from_name(cls, name: str) -> "EngineStamp":
        """Read the stamp in a file name such as `engines/sm90-trt10.13-fp16.engine`."""
        match = _STAMP.fullmatch(PurePosixPath(name).name)
        if match is None:
            raise EngineMismatchError(
                f"{name} has no stamp; expected a name such as "
                f"engines/sm90-trt10.13-fp16.engine. Rebuild it with `isogon export`."
            )
        return cls(name=name, **match.groupdict())  # type: ignore[arg-type]

    @classmethod
    def of(
        cls, *, gpu: str, flavour: str, version: str, precision: Precision
    ) -> "EngineStamp":
        """Return the stamp of an engine about to be built."""
        return cls.from_name(f"engines/{gpu}-{flavour}{version}-{precision}.engine")

    @property
    def package(self) -> Flavour:
        """The package that runs it."""
        return FLAVOURS[self.flavour]

    @property
    def needs_lean(self) -> bool:
        """Whether it needs the lean runtime of the TensorRT version that built it.

        An engine for later versions usually contains that runtime as executable code.
        Ours does not (rule 3), so the library must be installed.
        """
        return self.version.endswith("up")

    def matches(self, machine: Machine) -> bool:
        """Whether this engine runs on `machine`."""
        try:
            self.require_match(machine)
        except EngineMismatchError:
            return False
        return True

    def require_match(self, machine: Machine) -> None:
        """Raise `EngineMismatchError` unless this engine runs on `machine`."""
        installed = machine.versions.get(self.flavour)
        built = self.version.removesuffix("up")
        if self._runs_on(machine.gpu) and self._runs_with(installed):
            if not self.needs_lean or machine.versions.get(LEAN) == built:
                return
            raise EngineMismatchError(
                f"{self.name} needs the lean runtime of TensorRT {built}, but this "
                f"machine has {machine.versions.get(LEAN) or 'none'}. Install "
                f"`tensorrt-lean=={built}.*` beside {self.package}."
            )
        raise EngineMismatchError(
            f"{self.name} was built for {self.gpu} with {self.package} {self.version}, but "
            f"this machine has {machine.gpu or 'no NVIDIA GPU'} with {self.package} "
            f"{installed or 'not installed'}. Engines are not portable: rebuild it "
            f"here, or serve the ONNX graph."
        )

    def _runs_on(self, gpu: str | None) -> bool:
        if gpu is None:
            return False
        if not self.gpu.endswith("up"):
            return gpu in self.gpu.split("+")
        return _number(gpu) >= _number(self.gpu)

    def _runs_with(self, installed: str | None) -> bool:
        if installed is None or not self.version.endswith("up"):
            return installed == self.version
        return _parts(installed) >= _parts(self.version)


def installed_version(package: str) -> str | None:
    """Return "major.minor" of an installed package, without importing it."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return ".".join(version.split(".")[:2])


def _number(gpu: str) -> int:
    return int(gpu.removeprefix("sm").removesuffix("up"))


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.removesuffix("up").split(".")))
