"""What `isogon export` is asked to make, and within which bounds."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import get_args

from export.onnx import OPSET, Method
from export.tensorrt import EngineOptions
from isogon.errors import UsageError
from isogon.parity import TOLERANCES, Tolerance
from isogon.runtimes import (
    BatchProfile,
    Flavour,
    Machine,
    Pixels,
    Precision,
    cuda_device,
    other_runtimes,
)

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportPlan:
    """The artifacts to make; float32 ONNX always comes first, the others from it."""

    lower: tuple[Precision, ...] = ()  # precisions below float32
    engine: Flavour | None = None  # in each lower precision, or else in float32
    build_only: bool = False  # engines that cannot run here; nothing vouches for them
    version_compatible: bool = False  # engines for later versions of TensorRT too
    hardware_compatible: bool = False  # engines for every GPU from sm80 on
    profile: BatchProfile = field(default_factory=BatchProfile)
    opset: int = OPSET  # of ONNX's operators; fewer for an older ONNX Runtime
    runtimes: tuple[str, ...] = ()  # other ones that shall run the ONNX files too
    bank: int | None = None  # vectors of the detector's bank to keep; None: as it is
    repair: bool = True  # keep nodes in float32 until a lower precision passes
    ranges: Method = "percentile"  # of the activations, for int8
    finetune: int = 0  # steps in which int8's weights learn to answer as float32 does
    finetune_on: Pixels | None = None  # real pixels for that, beside the bundle's samples
    tolerances: Mapping[Precision, Tolerance] = field(default_factory=lambda: TOLERANCES)
    extra: Pixels | None = None  # real pixels to compare on, beside the held-out ones

    @property
    def engine_precisions(self) -> tuple[Precision, ...]:
        """The precisions of the engines, if any are wanted."""
        return (self.lower or ("fp32",)) if self.engine else ()

    def engine_options(self, precision: Precision) -> EngineOptions:
        """Return what engine is wanted in a precision; some flavour must be."""
        assert self.engine is not None
        return EngineOptions(
            flavour=self.engine,
            precision=precision,
            version_compatible=self.version_compatible,
            hardware_compatible=self.hardware_compatible,
        )

    def require_possible(self) -> None:
        """Raise if something is wanted that cannot be made, or not be proven, here.

        Raises:
            UsageError: another runtime is unknown or not installed, there is no GPU, the
                flavour is not installed, or something is
                asked of engines without an engine, or of this flavour's that only the
                other's have, or fine-tuning without int8.
            EngineMismatchError: the engine could be built, but not for this GPU.
        """
        self._require_runtimes()
        if self.finetune and "int8" not in self.lower:
            raise UsageError(
                "--finetune is about int8, and none is asked for. Add `--int8`, or leave "
                "it out."
            )
        if self.engine is None:
            self._require_nothing_of_engines()
            return
        if not self.build_only and cuda_device() is None:
            raise UsageError(
                "An engine enters the bundle only once it has answered as the reference "
                "does, and this process sees no CUDA device to run it on. Export on the "
                "machine that will serve it. `--build-only` builds engines of "
                "tensorrt-rtx here; `isogon verify --vouch` then proves them there."
            )
        for precision in self.engine_precisions:
            stamp = self.engine_options(precision).stamp()
            if not self.build_only:
                stamp.require_match(Machine.here())

    def _require_runtimes(self) -> None:
        others = {runtime.name: runtime for runtime in other_runtimes()}
        for name in self.runtimes:
            if name not in others:
                raise UsageError(
                    f"Expected --runtime to be one of {', '.join(others)}, got {name}. "
                    f"What an ONNX file or an engine usually runs by needs no asking for."
                )
            if reason := others[name].absent():
                raise UsageError(f"--runtime {name} cannot be proven here. {reason}")

    def _require_nothing_of_engines(self) -> None:
        asked = {
            "--build-only": self.build_only,
            "--version-compatible": self.version_compatible,
            "--hardware-compatible": self.hardware_compatible,
        }
        for option, wanted in asked.items():
            if wanted:
                raise UsageError(
                    f"{option} is about engines, and none is asked for. Add `--engine "
                    f"tensorrt` or `--engine tensorrt-rtx`, or leave it out."
                )


def lower_precisions(*, fp16: bool, int8: bool) -> tuple[Precision, ...]:
    """Return those precisions below float32 that are asked for, for `ExportPlan.lower`."""
    asked: dict[Precision, bool] = {"fp16": fp16, "int8": int8}
    return tuple(precision for precision, wanted in asked.items() if wanted)


def tolerances(
    bounds: Iterable[str], made: Collection[Precision] = PRECISIONS
) -> Mapping[Precision, Tolerance]:
    """Return the default bounds with these in their place.

    Args:
        bounds: `NAME=VALUE` for every precision, or `PRECISION.NAME=VALUE` for one, for
            example `int8.min_cosine=0.98`.
        made: the precisions that there are; a bound of another is a mistake.

    Raises:
        UsageError: no such bound or precision, or no number.
    """
    changed: dict[Precision, Tolerance] = dict(TOLERANCES)
    for text in bounds:
        left, _, number = text.partition("=")
        prefix, _, name = left.rpartition(".")
        value = _number(number)
        known = name in Tolerance.model_fields and prefix in ("", *PRECISIONS)
        if value is None or not known:
            raise UsageError(
                f"Expected --bound as NAME=VALUE or PRECISION.NAME=VALUE, got {text!r}; "
                f"write for example --bound int8.min_cosine=0.98. The names: "
                f"{', '.join(Tolerance.model_fields)}; the precisions: "
                f"{', '.join(PRECISIONS)}."
            )
        if prefix not in ("", *made):
            raise UsageError(
                f"--bound {text} is about {prefix}, and nothing is judged in that: here "
                f"it is {', '.join(made)}. Ask for {prefix} too, or leave the bound out."
            )
        for precision, tolerance in changed.items():
            if prefix in ("", precision):
                changed[precision] = tolerance.model_copy(update={name: value})
    return changed


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
