"""The device that an operator asks for: `auto`, `cpu`, `cuda`, or one of several GPUs."""

import re
from dataclasses import dataclass
from typing import Literal, Self, cast

from isogon.errors import UsageError

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]  # of ONNX Runtime

_FORM = re.compile(r"(auto|cpu|cuda)|cuda:(\d+)", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """Where a model runs. Only "auto" falls back to the CPU."""

    provider: Provider  # of ONNX Runtime
    number: int = 0  # among the GPUs that CUDA_VISIBLE_DEVICES leaves

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the device of `auto`, `cpu`, `cuda` or `cuda:N`.

        Raises:
            UsageError: it is none of these.
        """
        if (match := _FORM.fullmatch(text)) is None:
            raise UsageError(f"A device is auto, cpu, cuda or cuda:1, got {text!r}.")
        kind, number = match.groups()
        if number is not None:
            return cls(provider="cuda", number=int(number))
        return cls(provider=cast(Provider, kind))

    def __str__(self) -> str:
        return self.provider + (f":{self.number}" if self.number else "")


ANY_DEVICE = Device(provider="auto")
