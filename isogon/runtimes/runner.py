"""What runs an artifact, in which precision; and what a runtime is that opens one."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from isogon.errors import UsageError
from isogon.runtimes.device import ANY_DEVICE, Device

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchProfile:
    """The smallest, the most usual and the largest batch an engine answers.

    Raises:
        UsageError: not 1 <= minimum <= optimum <= maximum.
    """

    minimum: int = 1
    optimum: int = 8
    maximum: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise UsageError(
                f"The batch profile {self} is out of order; expected MIN:OPT:MAX with "
                f"1 <= MIN <= OPT <= MAX, such as 1:8:32."
            )

    @classmethod
    def parse(cls, text: str) -> "BatchProfile":
        """Return the profile written as "MIN:OPT:MAX", such as "1:8:32".

        Raises:
            UsageError: it is not three whole numbers in that order.
        """
        found = re.fullmatch(r"(\d+):(\d+):(\d+)", text.strip(), re.ASCII)
        if found is None:
            raise UsageError(
                f"{text!r} is no batch profile; expected MIN:OPT:MAX, such as 1:8:32."
            )
        minimum, optimum, maximum = map(int, found.groups())
        return cls(minimum=minimum, optimum=optimum, maximum=maximum)

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"


Pixels = UInt8[np.ndarray, "_ h w 3"]  # any number of images


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """What a runner says of each image: a unit-norm embedding and an OOD score."""

    embeddings: Float32[np.ndarray, "b d"]
    ood_scores: Float32[np.ndarray, " b"]

    def __len__(self) -> int:
        return len(self.embeddings)


class Runner(ABC):
    """Anything that computes `Outputs` from pixels."""

    name: str  # says what runs where, for reports
    on_device: bool = False  # whether an accelerator computes, and not the CPU's cores
    profile: BatchProfile | None = None  # the batches it is made for; None: any
    preprocessing: str | None = None  # of its pixels, JSON, as the file says
    metadata: Mapping[str, str] = {}  # the other properties of the file

    @abstractmethod
    def run(self, pixels: Pixels) -> Outputs:
        """Return embeddings and OOD scores of one batch."""

    def run_all(
        self,
        pixels: Pixels,
        batch_size: int,
        track: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> Outputs:
        """Return the outputs of many images, `batch_size` at a time, in order."""
        batches = [
            self.run(pixels[start : start + batch_size])
            for start in track(range(0, len(pixels), batch_size))
        ]
        return Outputs(
            embeddings=np.concatenate([batch.embeddings for batch in batches]),
            ood_scores=np.concatenate([batch.ood_scores for batch in batches]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class How:
    """How a file is run; a runtime passes over what does not concern it."""

    threads: int | None = None  # of one run on the CPU; None: the runtime's own choice
    device: Device = ANY_DEVICE
    graphs: bool = False  # replay CUDA graphs


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """One way to run the files with a suffix. Its module makes it; `known` lists it."""

    name: str
    suffix: str  # ".onnx"
    usual: bool  # whether it runs such a file where no other runtime is named
    open: Callable[[Path, How], Runner]
    absent: Callable[[], str | None]  # why it cannot be had here; None: it can
