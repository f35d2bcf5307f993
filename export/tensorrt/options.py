"""What engine to build, by which TensorRT, and the stamp that follows from it.

What the two majors share is in NVIDIA's migration guide,
https://docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x.html
11 removed weak typing with its FP16, INT8, BF16 and FP8 flags, EXPLICIT_BATCH and the
calibrators; nothing here uses them with 10 either.
"""

import re
from dataclasses import dataclass
from typing import Any

from isogon.errors import UsageError
from isogon.runtimes import EngineStamp, Flavour, Machine, Precision
from isogon.runtimes.stamps import installed_version, tensorrt_module

_OLDEST = 80  # on Turing, sm75, TensorRT for RTX multiplies no float32 matrices


def network_flags(flavour: Flavour) -> int:
    """Return the flags for `Builder.create_network`: each tensor keeps the type it has.

    10 needs STRONGLY_TYPED. 11 types every network strongly; it keeps the name, and
    ignores it, until it goes. TensorRT for RTX 1 has the names of both.
    """
    tensorrt = tensorrt_module(flavour)
    flag = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    needs_flag = flavour == "tensorrt-rtx" or tensorrt.__version__.startswith("10.")
    return 1 << int(flag) if flag is not None and needs_flag else 0


def has_timing_cache(flavour: Flavour) -> bool:
    """Whether building is faster with the timings of an earlier build.

    TensorRT for RTX times nothing when it builds, and given a cache it looks for a GPU:
    https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/release-notes-1/1.1.html
    """
    return flavour == "tensorrt"


def known_architectures() -> tuple[str, ...]:
    """Return what TensorRT for RTX builds for, "sm80" and later, oldest first."""
    names = tensorrt_module("tensorrt-rtx").ComputeCapability.__members__
    numbers = [int(name[2:]) for name in names if re.fullmatch(r"SM\d+", name)]
    return tuple(f"sm{number}" for number in sorted(numbers) if number >= _OLDEST)


def set_architectures(config: Any, architectures: tuple[str, ...]) -> None:
    """Tell TensorRT for RTX which GPUs its engine shall run on.

    Raises:
        UsageError: it does not take one of them.
    """
    capability = tensorrt_module("tensorrt-rtx").ComputeCapability
    config.num_compute_capabilities = len(architectures)
    for place, name in enumerate(architectures):
        if not config.set_compute_capability(getattr(capability, name.upper()), place):
            raise UsageError(
                f"TensorRT for RTX does not build for {name} among "
                f"{'+'.join(architectures)}. Name fewer architectures."
            )


_CODES: dict[Flavour, str] = {"tensorrt": "trt", "tensorrt-rtx": "rtx"}
_AMPERE = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """What engine to build.

    `architectures` are for TensorRT for RTX, which builds for several GPUs, and without
    one: ("sm86", "sm89"); empty means every one that it knows from sm80 on. TensorRT
    builds for the GPU that is there.

    The other two are for TensorRT, each at the cost of some speed: `hardware_compatible`
    for every GPU from Ampere (sm80) on, `version_compatible` for later versions of
    TensorRT, by way of the lean runtime, which has to be installed there.
    """

    flavour: Flavour
    precision: Precision
    architectures: tuple[str, ...] = ()
    version_compatible: bool = False
    hardware_compatible: bool = False

    def stamp(self) -> EngineStamp:
        """Return the stamp of the engine that these options give here and now.

        Raises:
            UsageError: the flavour is not installed, there is no GPU for TensorRT to
                build on, or the options do not go with the flavour.
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
                "TensorRT for RTX builds for the architectures that are named and for its "
                "own version; --version-compatible and --hardware-compatible are for "
                "`--engine tensorrt`. Leave them out."
            )
        known = known_architectures()
        unknown = [name for name in self.architectures if name not in known]
        if unknown:
            raise UsageError(
                f"TensorRT for RTX builds for {', '.join(known)}, not for "
                f"{', '.join(unknown)}. For other GPUs take flavour `tensorrt`."
            )
        return "+".join(sorted(self.architectures or known, key=known.index))

    def _gpu(self) -> str:
        if self.architectures:
            raise UsageError(
                f"TensorRT builds for the GPU that is there, not for "
                f"{'+'.join(self.architectures)}. Leave the architectures out, or take "
                f"flavour `tensorrt-rtx`."
            )
        gpu = Machine.here().gpu
        if gpu is None:
            raise UsageError(
                "TensorRT times its kernels on the GPU it builds for, but this process "
                "sees no CUDA device. Build on a machine with one, or take flavour "
                "`tensorrt-rtx`, which builds anywhere."
            )
        if not self.hardware_compatible:
            return gpu
        if int(gpu.removeprefix("sm")) < _AMPERE:
            raise UsageError(
                f"A hardware-compatible engine is built on sm{_AMPERE} or later, and this "
                f"GPU is {gpu}. Leave --hardware-compatible out."
            )
        return f"sm{_AMPERE}up"
