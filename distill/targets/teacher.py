"""The teacher of a run: a network, or embeddings that someone else computed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from distill.targets.given import GivenTargets
from distill.targets.targets import Targets
from isogon.bundle import TeacherCard
from isogon.images import Preprocessing
from isogon.images.collection import Indices
from isogon.networks import Features
from isogon.progress import Progress

_BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Uncomputed:
    """Features that a run is going to compute and keep."""

    views: int  # of images, each through the network once
    size: int  # in bytes, on disk


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedder:
    """What embeds plain crops of images, on the device of their pixels."""

    crops: tuple[Preprocessing, ...]  # what it takes of each image, in this order
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
        """Learn what it needs of the training images before it teaches.

        Args:
            indices: of the training images.
            device: where networks compute.
            progress: where to show progress.
            folder: of the run, which keeps it, so that a continued run has the same.
            arrays: what it had learnt when the bundle was made, as `kept` gave it.
        """

    @property
    def kept(self) -> dict[str, np.ndarray]:
        """What it has learnt in `prepare`, for the bundle; empty where there is nothing."""
        return {}

    @property
    def parts(self) -> dict[str, slice]:
        """The channels of each of several teachers, by its name; empty for one."""
        return {}

    @property
    @abstractmethod
    def embed(self) -> Embedder | None:
        """What embeds any image, from its own crops; None where there is no network."""

    @abstractmethod
    def targets(
        self, indices: Indices, device: torch.device, progress: Progress
    ) -> Targets:
        """Return what the student learns from on these images.

        May take hours, where the features are computed once and are not there yet.
        Every process of a run calls it, and one of them computes.

        Raises:
            UsageError: see `filled_store`.
        """

    @abstractmethod
    def sample(self, indices: Indices, device: torch.device) -> Iterator[Features]:
        """Yield features of the plain crops in order, batch by batch, on `device`.

        They are of the kind that the targets give: with cells, or pooled alone.
        """

    @abstractmethod
    def pooled(
        self, indices: Indices, device: torch.device, progress: Progress
    ) -> Float[np.ndarray, "n d"]:
        """Return the pooled features of the plain crops, in order; mapped from disk.

        Computed once for these images and kept, in float16; given ones as they are.

        Raises:
            UsageError: see `filled_store`.
        """

    @abstractmethod
    def uncomputed(
        self, indices: Indices, device: torch.device, *, plain: bool = False
    ) -> Uncomputed:
        """Return what `targets`, or with `plain` what `pooled`, would have to compute."""


class GivenTeacher(Teacher):
    """A teacher known by one embedding for each image."""

    def __init__(
        self, embeddings: Float[np.ndarray, "images d"], card: TeacherCard
    ) -> None:
        self._embeddings = embeddings
        self.card = card

    @property
    def embed(self) -> None:
        """None: other images than these cannot be embedded."""
        return None

    def targets(
        self, indices: Indices, device: torch.device, progress: Progress
    ) -> Targets:
        """Return the embeddings, the same for every view of an image."""
        return GivenTargets(self._embeddings)

    def sample(self, indices: Indices, device: torch.device) -> Iterator[Features]:
        """Yield the embeddings, batch by batch."""
        yield from in_batches(self._embeddings, indices, device)

    def pooled(
        self, indices: Indices, device: torch.device, progress: Progress
    ) -> Float[np.ndarray, "n d"]:
        """Return the embeddings."""
        rows: Float[np.ndarray, "n d"] = self._embeddings[indices]
        return rows

    def uncomputed(
        self, indices: Indices, device: torch.device, *, plain: bool = False
    ) -> Uncomputed:
        """Nothing has to be computed: the embeddings are given."""
        return Uncomputed(views=0, size=0)


def in_batches(
    embeddings: Float[np.ndarray, "images d"], indices: Indices, device: torch.device
) -> Iterator[Features]:
    """Yield these rows as float32 features of one token, batch by batch."""
    for first in range(0, len(indices), _BATCH):
        rows = embeddings[indices[first : first + _BATCH]].astype(np.float32)
        yield Features(tokens=torch.from_numpy(rows)[:, None].to(device), grid=(0, 0))
