"""Where artifacts run: on which device, and on how many CPU cores."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from isogon.errors import UsageError

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]  # of ONNX Runtime
_FORM = re.compile(r"(auto|cpu|cuda)|cuda:(\d+)", re.ASCII)

# Control groups, version 2; inside a container the root is the container's own group.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """Where a model runs. Only "auto" falls back to the CPU."""

    provider: Provider  # of ONNX Runtime
    number: int = 0  # of the GPU, counted within CUDA_VISIBLE_DEVICES

    @classmethod
    def parse(cls, text: str) -> "Device":
        """Parse `auto`, `cpu`, `cuda` or `cuda:N`.

        Raises:
            UsageError: the text is none of these.
        """
        if (match := _FORM.fullmatch(text)) is None:
            raise UsageError(f"Expected a device, auto, cpu, cuda or cuda:1, got {text!r}.")
        kind, number = match.groups()
        if number is not None:
            return cls(provider="cuda", number=int(number))
        return cls(provider=cast(Provider, kind))

    def __str__(self) -> str:
        return self.provider + (f":{self.number}" if self.number else "")


ANY_DEVICE = Device(provider="auto")


def usable_cores(quota: Path = _QUOTA) -> int:
    """Return how many cores this process may keep busy, at least 1.

    Args:
        quota: the file with "MICROSECONDS PERIOD", or "max PERIOD" for no quota.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    if quota.is_file():
        granted, period = quota.read_text().split()
        if granted != "max":
            allowed = min(allowed, math.ceil(int(granted) / int(period)))
    return max(1, allowed)
