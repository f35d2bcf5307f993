"""The interface of a run's teacher: a network, several, or given embeddings."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from distill.targets.targets import Targets
from isogon.bundle import TeacherCard
from isogon.images import Preprocessing
from isogon.images.collection import Indices
from isogon.networks import Features
from isogon.progress import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Uncomputed:
    """How much a run still has to compute and store."""

    views: int  # that go through the network once each
    size: int  # in bytes, on disk


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedder:
    """Embeds plain crops of images, on the device of their pixels."""

    crops: tuple[Preprocessing, ...]  # of each image, in the order that `run` takes them
    run: Callable[..., Float[Tensor, "b d"]]

    def __call__(self, *pixels: UInt8[Tensor, "b _ _ 3"]) -> Float[Tensor, "b d"]:
        """Return the embeddings of images, given as their crops."""
        return self.run(*pixels)


class Teacher(ABC):
    """The interface of a run's teacher; images are given by their index."""

    card: TeacherCard

    def prepare(  # noqa: B027  one teacher needs nothing
        self,
        indices: Indices,
        device: torch.device,
        progress: Progress,
        folder: Path | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Compute what the teacher needs from the training images, before training.

        Args:
            indices: of the training images.
            device: where networks compute.
            progress: where to show progress.
            folder: of the run; the result is stored there for a continued run.
            arrays: the result of an earlier run, as its bundle holds it (see `kept`).
        """

    @property
    def kept(self) -> dict[str, np.ndarray]:
        """The result of `prepare`, for the bundle; empty where there is none."""
        return {}

    @property
    def parts(self) -> dict[str, slice]:
        """The channels of each of several teachers, by name; empty for a single teacher."""
        return {}

    @property
    @abstractmethod
    def embed(self) -> Embedder | None:
        """Embeds any image; None where there is no network."""

    @abstractmethod
    def targets(
        self, indices: Indices, device: torch.device, progress: Progress
    ) -> Targets:
        """Return what the student learns from on these images.

        This may take hours, if features are stored and not computed yet. Every process of
        a run calls it; one of them computes.

        Raises:
            UsageError: see `filled_store`.
        """

    @abstractmethod
    def sample(self, indices: Indices, device: torch.device) -> Iterator[Features]:
        """Yield features of the plain crops in order, batch by batch, on `device`.

        They have cells (patch tokens) where the targets have them; else only pooled.
        """

    @abstractmethod
    def pooled(
        self, indices: Indices, device: torch.device, progress: Progress
    ) -> Float[np.ndarray, "n d"]:
        """Return the pooled features of the plain crops, in order; memory-mapped.

        They are computed once for these images and stored in float16. Given embeddings
        are returned as they are.

        Raises:
            UsageError: see `filled_store`.
        """

    @abstractmethod
    def uncomputed(
        self,
        indices: Indices,
        device: torch.device,
        *,
        plain: bool = False,
        crops: Indices | None = None,
    ) -> Uncomputed:
        """Return how much `targets`, or with `plain` `pooled`, would have to compute.

        Args:
            indices: the images.
            device: where networks run.
            plain: count for `pooled`.
            crops: the images whose plain crops `pooled` will have computed before.
        """
