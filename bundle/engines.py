"""TensorRT engines run on the machine they were built for, and nowhere else.

An engine's file name is its stamp: `engines/<gpu>-<flavour><version>-<precision>.engine`,
for example `engines/sm90-trt10.13-fp16.engine`. Nothing here loads an engine; the
stamp is judged before any TensorRT object is made, because TensorRT itself ends
the process on some mismatches.
"""

import importlib.metadata
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import PurePosixPath

from bundle.errors import EngineMismatchError

_STAMP = re.compile(r"(sm\d+)-(trt|rtx)(\d+\.\d+)-(fp32|fp16|int8)\.engine")
_PACKAGES = {"trt": "tensorrt", "rtx": "tensorrt-rtx"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What an engine depends on: the GPU's architecture and the TensorRT versions."""

    gpu: str | None  # "sm90"; None without an NVIDIA GPU
    versions: dict[str, str]  # flavour -> "major.minor" of what is installed

    @classmethod
    def here(cls) -> "Machine":
        """Describe the machine this process runs on."""
        versions = {}
        for flavour, package in _PACKAGES.items():
            try:
                version = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
            versions[flavour] = ".".join(version.split(".")[:2])
        return cls(gpu=_gpu(), versions=versions)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStamp:
    """Where an engine can run, as its file name says."""

    name: str
    gpu: str
    flavour: str
    version: str
    precision: str

    @classmethod
    def from_name(cls, name: str) -> "EngineStamp":
        """Read the stamp in a file name such as `engines/sm90-trt10.13-fp16.engine`."""
        match = _STAMP.fullmatch(PurePosixPath(name).name)
        if match is None:
            raise EngineMismatchError(
                f"{name} has no stamp; expected a name such as "
                f"engines/sm90-trt10.13-fp16.engine. Rebuild it with `isogon export`."
            )
        gpu, flavour, version, precision = match.groups()
        return cls(
            name=name, gpu=gpu, flavour=flavour, version=version, precision=precision
        )

    def require_match(self, machine: Machine) -> None:
        """Raise `EngineMismatchError` unless this engine runs on `machine`."""
        package = _PACKAGES[self.flavour]
        installed = machine.versions.get(self.flavour)
        if (machine.gpu, installed) == (self.gpu, self.version):
            return
        raise EngineMismatchError(
            f"{self.name} was built for {self.gpu} with {package} {self.version}, but "
            f"this machine has {machine.gpu or 'no NVIDIA GPU'} with {package} "
            f"{installed or 'not installed'}. Engines are not portable: rebuild it "
            f"here, or serve the ONNX graph."
        )


def _gpu() -> str | None:
    """Return the first GPU's architecture as the driver reports it."""
    if shutil.which("nvidia-smi") is None:
        return None
    answer = subprocess.run(
        ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    lines = answer.stdout.split()
    if answer.returncode != 0 or not lines:
        return None
    return "sm" + lines[0].replace(".", "")
