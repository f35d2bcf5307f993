"""What engine to build, and the stamp that follows from it."""

from dataclasses import dataclass

from export.tensorrt.flavours import known_architectures
from isogon.errors import UsageError
from isogon.runtimes import EngineStamp, Flavour, Machine, Precision
from isogon.runtimes.flavours import installed_version, tensorrt_module

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
