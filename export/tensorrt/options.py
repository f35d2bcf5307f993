"""Which engine to build, with which TensorRT, and the stamp that results.

What TensorRT 10 and 11 share is in NVIDIA's migration guide,
https://docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x.html
11 removed weak typing with its FP16, INT8, BF16 and FP8 flags, EXPLICIT_BATCH and the
calibrators; they are not used with 10 either.
"""

import re
from dataclasses import dataclass
from typing import Any

from isogon.errors import UsageError, option
from isogon.runtimes import EngineStamp, Flavour, Machine, Precision
from isogon.runtimes.stamps import installed_version
from isogon.runtimes.tensorrt import tensorrt_module

_CODES: dict[Flavour, str] = {"tensorrt": "trt", "tensorrt-rtx": "rtx"}
_OLDEST = 80  # on Turing (sm75) TensorRT for RTX has no float32 matrix product
_AMPERE = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """What engine to build.

    `architectures`, such as ("sm86", "sm89"), is for TensorRT for RTX, which builds for
    several GPUs and needs none to build; empty: every architecture it knows from sm80 on.
    TensorRT builds for the GPU of this machine.

    The other two are for TensorRT and cost some speed: `hardware_compatible` engines run
    on every GPU from Ampere (sm80) on, `version_compatible` ones in later versions of
    TensorRT, with the lean runtime, which must be installed there.
    """

    flavour: Flavour
    precision: Precision
    architectures: tuple[str, ...] = ()
    version_compatible: bool = False
    hardware_compatible: bool = False

    def stamp(self) -> EngineStamp:
        """Return the stamp of the engine that these options give on this machine.

        Raises:
            UsageError: the flavour is not installed, TensorRT finds no GPU to build on, or
                the options do not fit the flavour.
        """
        tensorrt_module(self.flavour)
        version = installed_version(self.flavour)
        assert version is not None  # or it would not have been imported
        return EngineStamp.of(
            gpu=self._rtx_gpus() if self.flavour == "tensorrt-rtx" else self._gpu(),
            flavour=_CODES[self.flavour],
            version=f"{version}up" if self.version_compatible else version,
            precision=self.precision,
        )

    def _rtx_gpus(self) -> str:
        if self.version_compatible or self.hardware_compatible:
            raise UsageError(
                f"{option('version_compatible')} and {option('hardware_compatible')} are "
                f"for {option('engine', 'tensorrt')}; TensorRT for RTX builds for named "
                f"architectures and its own version. Leave them out."
            )
        known = known_architectures()
        unknown = [name for name in self.architectures if name not in known]
        if unknown:
            raise UsageError(
                f"TensorRT for RTX builds for {', '.join(known)}, not for "
                f"{', '.join(unknown)}. For other GPUs use flavour `tensorrt`."
            )
        return "+".join(sorted(self.architectures or known, key=known.index))

    def _gpu(self) -> str:
        if self.architectures:
            raise UsageError(
                f"TensorRT builds for the GPU of this machine, not for "
                f"{'+'.join(self.architectures)}. Leave the architectures out, or use "
                f"flavour `tensorrt-rtx`."
            )
        gpu = Machine.here().gpu
        if gpu is None:
            raise UsageError(
                "TensorRT times its kernels on the GPU it builds for, but this process "
                "sees no CUDA device. Build on a machine with one, or use flavour "
                "`tensorrt-rtx`, which builds anywhere."
            )
        if not self.hardware_compatible:
            return gpu
        if int(gpu.removeprefix("sm")) < _AMPERE:
            raise UsageError(
                f"A hardware-compatible engine is built on sm{_AMPERE} or later, and this "
                f"GPU is {gpu}. Leave {option('hardware_compatible')} out."
            )
        return f"sm{_AMPERE}up"


def network_flags(flavour: Flavour) -> int:
    """Return the flags for `Builder.create_network`: each tensor keeps its type.

    10 needs STRONGLY_TYPED. In 11 every network is strongly typed; the flag still exists
    and is ignored. TensorRT for RTX 1 has the names of both.
    """
    tensorrt = tensorrt_module(flavour)
    flag = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    needs_flag = flavour == "tensorrt-rtx" or tensorrt.__version__.startswith("10.")
    return 1 << int(flag) if flag is not None and needs_flag else 0


def has_timing_cache(flavour: Flavour) -> bool:
    """Whether the timings of an earlier build make building faster.

    TensorRT for RTX times nothing when it builds, and needs a GPU if given a cache:
    https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/release-notes-1/1.1.html
    """
    return flavour == "tensorrt"


def known_architectures() -> tuple[str, ...]:
    """Return the architectures of TensorRT for RTX, "sm80" and later, oldest first."""
    names = tensorrt_module("tensorrt-rtx").ComputeCapability.__members__
    numbers = [int(name[2:]) for name in names if re.fullmatch(r"SM\d+", name)]
    return tuple(f"sm{number}" for number in sorted(numbers) if number >= _OLDEST)


def set_architectures(config: Any, architectures: tuple[str, ...]) -> None:
    """Set the GPUs that an engine of TensorRT for RTX is for.

    Raises:
        UsageError: it does not accept one of them.
    """
    capability = tensorrt_module("tensorrt-rtx").ComputeCapability
    config.num_compute_capabilities = len(architectures)
    for place, name in enumerate(architectures):
        if not config.set_compute_capability(getattr(capability, name.upper()), place):
            raise UsageError(
                f"TensorRT for RTX does not build for {name} among "
                f"{'+'.join(architectures)}. Name fewer architectures."
            )
