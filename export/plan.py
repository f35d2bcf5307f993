"""The plan of an export: which artifacts to make, and the bounds they must keep.

Nothing here needs torch, so that a plan is refused before torch is loaded.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from export.tensorrt.options import EngineOptions
from isogon.errors import UsageError, option
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
OPSET = 20  # of ONNX's operators
OLDEST_OPSET = 18  # the exporter writes no older ones
FINETUNING_STEPS = 300  # of `isogon export --finetune`

RangeMethod = Literal["percentile", "entropy"]  # of int8's activations


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportPlan:
    """The artifacts to make. Float32 ONNX always comes first; others are made from it."""

    lower: tuple[Precision, ...] = ()  # precisions below float32
    engine: Flavour | None = None  # in each lower precision; without one in float32
    build_only: bool = False  # for engines that cannot run here: no parity report
    version_compatible: bool = False  # engines for later versions of TensorRT too
    hardware_compatible: bool = False  # engines for every GPU from sm80 on
    profile: BatchProfile = field(default_factory=BatchProfile)
    opset: int = OPSET  # of ONNX's operators; lower for an older ONNX Runtime
    runtimes: tuple[str, ...] = ()  # in addition to the usual one, for the ONNX files
    bank: int | None = None  # vectors to keep of the detector's bank; None: all
    repair: bool = True  # keep nodes in float32 until a lower precision passes
    ranges: RangeMethod = "percentile"  # of the activations, for int8
    finetune: int = 0  # steps that train int8's weights towards float32's answers
    finetune_on: Pixels | None = None  # more pixels for that, besides the bundle's samples
    tolerances: Mapping[Precision, Tolerance] = field(default_factory=lambda: TOLERANCES)
    extra: Pixels | None = None  # more pixels to compare on, besides the held-out ones

    @property
    def engine_precisions(self) -> tuple[Precision, ...]:
        """The precisions of the engines; empty without engines."""
        return (self.lower or ("fp32",)) if self.engine else ()

    def engine_options(self, precision: Precision) -> EngineOptions:
        """Return the options of the engine in a precision; `engine` must be set."""
        assert self.engine is not None
        return EngineOptions(
            flavour=self.engine,
            precision=precision,
            version_compatible=self.version_compatible,
            hardware_compatible=self.hardware_compatible,
        )

    def require_possible(self) -> None:
        """Raise if something in the plan cannot be made, or cannot be checked, here.

        Raises:
            UsageError: a value is unknown; a runtime is unknown or not installed; there is
                no GPU; the flavour is not installed; an option is for engines but there is
                none, or for the other flavour; fine-tuning without int8.
            EngineMismatchError: the engine could be built, but not for this GPU.
        """
        self._require_known()
        self._require_runtimes()
        if self.finetune and "int8" not in self.lower:
            raise UsageError(
                f"{option('finetune', True)} is for int8, which is not asked for. Add "
                f"{option('int8', True)}, or leave it out."
            )
        if self.engine is None:
            self._require_nothing_of_engines()
            return
        if not self.build_only and cuda_device() is None:
            raise UsageError(
                "An engine enters the bundle only after it gave the reference's answers, "
                "and this process sees no CUDA device to run it on. Export on the "
                f"machine that will serve it. {option('build_only', True)} builds engines "
                f"of tensorrt-rtx here; `isogon verify --vouch` then checks them there."
            )
        for precision in self.engine_precisions:
            stamp = self.engine_options(precision).stamp()
            if not self.build_only:
                stamp.require_match(Machine.here())

    def _require_known(self) -> None:
        """Raise for a value that the command line would not pass on."""
        known: dict[str, tuple[object, Collection[object]]] = {
            "engine": (self.engine, (None, *get_args(Flavour))),
            "ranges": (self.ranges, get_args(RangeMethod)),
            "opset": (self.opset, range(OLDEST_OPSET, OPSET + 1)),
        }
        for name, (value, values) in known.items():
            if value not in values:
                raise UsageError(
                    f"Expected {option(name)} to be one of {', '.join(map(str, values))}, "
                    f"got {value!r}."
                )

    def _require_runtimes(self) -> None:
        others = {runtime.name: runtime for runtime in other_runtimes()}
        for name in self.runtimes:
            if name not in others:
                raise UsageError(
                    f"Expected {option('runtimes')} to be one of {', '.join(others)}, got "
                    f"{name}. The usual runtimes of ONNX files and engines are not named."
                )
            if reason := others[name].absent():
                raise UsageError(
                    f"{option('runtimes', name)} cannot be checked here. {reason}"
                )

    def _require_nothing_of_engines(self) -> None:
        asked = {
            "build_only": self.build_only,
            "version_compatible": self.version_compatible,
            "hardware_compatible": self.hardware_compatible,
        }
        for name, wanted in asked.items():
            if wanted:
                raise UsageError(
                    f"{option(name, True)} is for engines, and none is asked for. Add "
                    f"{option('engine', 'tensorrt')} or "
                    f"{option('engine', 'tensorrt-rtx')}, or leave it out."
                )


def lower_precisions(*, fp16: bool, int8: bool) -> tuple[Precision, ...]:
    """Return the precisions below float32 that are asked for, for `ExportPlan.lower`."""
    asked: dict[Precision, bool] = {"fp16": fp16, "int8": int8}
    return tuple(precision for precision, wanted in asked.items() if wanted)


def tolerances(
    bounds: Iterable[str], made: Collection[Precision] = PRECISIONS
) -> Mapping[Precision, Tolerance]:
    """Return the default bounds, with these values instead of theirs.

    Args:
        bounds: `NAME=VALUE` for every precision, or `PRECISION.NAME=VALUE` for one, for
            example `int8.min_cosine=0.98`.
        made: the precisions that are judged; a bound of another is an error.

    Raises:
        UsageError: an unknown bound or precision, or not a number.
    """
    changed: dict[Precision, Tolerance] = dict(TOLERANCES)
    for text in bounds:
        left, _, number = text.partition("=")
        prefix, _, name = left.rpartition(".")
        value = _number(number)
        known = name in Tolerance.model_fields and prefix in ("", *PRECISIONS)
        if value is None or not known:
            raise UsageError(
                f"Expected {option('bounds')} as NAME=VALUE or PRECISION.NAME=VALUE, got "
                f"{text!r}; write for example "
                f"{option('bounds', 'int8.min_cosine=0.98')}. The names: "
                f"{', '.join(Tolerance.model_fields)}; the precisions: "
                f"{', '.join(PRECISIONS)}."
            )
        if prefix not in ("", *made):
            raise UsageError(
                f"{option('bounds', text)} is for {prefix}, but only {', '.join(made)} is "
                f"judged here. Ask for {prefix} too, or leave the bound out."
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
