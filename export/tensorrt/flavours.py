"""Where TensorRT 10, 11 and TensorRT for RTX differ for the builder: all of it is here.

What the two majors share is in NVIDIA's migration guide,
https://docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x.html
11 removed weak typing with its FP16, INT8, BF16 and FP8 flags, EXPLICIT_BATCH and the
calibrators; nothing here uses them with 10 either.
"""

import re
from typing import Any

from isogon.errors import UsageError
from isogon.runtimes import Flavour
from isogon.runtimes.flavours import tensorrt_module

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
