"""Runners turn uint8 pixels into embeddings and OOD scores, whatever runs the graph."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from isogon.runtimes.profile import BatchProfile

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
