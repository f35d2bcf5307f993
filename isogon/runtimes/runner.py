"""The interface of a runner, which runs an artifact, and of a runtime, which opens one."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from isogon.errors import BundleError, UsageError
from isogon.runtimes.device import ANY_DEVICE, Device

Precision = Literal["fp32", "fp16", "int8"]
Pixels = UInt8[np.ndarray, "_ h w 3"]  # any number of images


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """For each image a unit-norm embedding and an out-of-distribution (OOD) score."""

    embeddings: Float32[np.ndarray, "b d"]
    ood_scores: Float32[np.ndarray, " b"]

    def __len__(self) -> int:
        return len(self.embeddings)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchProfile:
    """The smallest, the usual and the largest batch size of an engine.

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
        """Parse "MIN:OPT:MAX", such as "1:8:32".

        Raises:
            UsageError: the text is not three whole numbers in that order.
        """
        found = re.fullmatch(r"(\d+):(\d+):(\d+)", str(text).strip(), re.ASCII)
        if found is None:
            raise UsageError(
                f"Expected a batch profile MIN:OPT:MAX, such as 1:8:32, got {text!r}."
            )
        minimum, optimum, maximum = map(int, found.groups())
        return cls(minimum=minimum, optimum=optimum, maximum=maximum)

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"


class Runner(ABC):
    """Anything that computes `Outputs` from pixels."""

    name: str  # runtime, version and device, for reports
    on_device: bool = False  # whether it runs on an accelerator, not on the CPU
    profile: BatchProfile | None = None  # the batch sizes it is built for; None: any
    preprocessing: str | None = None  # JSON, from the file
    metadata: Mapping[str, str] = {}  # the metadata properties of the file

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
    """How a file is run; a runtime ignores settings that it does not have.

    Raises:
        UsageError: `threads` is below 1.
    """

    threads: int | None = None  # of one run on the CPU; None: the runtime's default
    device: Device = ANY_DEVICE
    graphs: bool = False  # replay CUDA graphs

    def __post_init__(self) -> None:
        threads = self.threads
        if threads is not None and not (isinstance(threads, int) and threads >= 1):
            raise UsageError(
                f"Expected threads of at least 1, or None for the runtime's default; got "
                f"{threads!r}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """One way to run files of one suffix; `isogon.runtimes.known` finds them all."""

    name: str
    suffix: str  # ".onnx"
    usual: bool  # whether it runs such a file by default
    open: Callable[[Path, How], Runner]
    absent: Callable[[], str | None]  # why it is not available here; None: it is


def require_tensors(path: Path, inputs: list[str], outputs: list[str]) -> None:
    """Raise `BundleError` unless a graph has the inputs and outputs of Isogon's graphs."""
    if inputs != ["images"] or outputs != ["embedding", "ood_score"]:
        raise BundleError(
            f"{path} should map `images` to `embedding` and `ood_score`, it maps {inputs} "
            f"to {outputs}. Export it with `isogon export`."
        )
