"""What the student learns from: the teacher's features of its own views."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from distill.images.loading import ViewBatch
from distill.targets.finite import not_finite
from distill.targets.store import FeatureStore
from isogon.errors import UsageError
from isogon.images.collection import Indices
from isogon.networks import FeatureExtractor, Features


class Targets(ABC):
    """The interface of what gives the teacher's features of a batch of views."""

    width: int
    replayed: int | None = None  # views of an image after which they repeat; None: never
    sizes: tuple[int, ...] = ()  # sizes in which it needs the views, beside the student's

    @abstractmethod
    def place(self, device: torch.device) -> None:
        """Move the network, if there is one, to `device`."""

    @abstractmethod
    def features(self, batch: ViewBatch) -> Features:
        """Return the teacher's features of the views, on the device of their pixels."""

    def fault(self) -> UsageError | None:
        """Return the error for features that were not finite since the last call, if any.

        Called between steps, because the host has to wait for the device.
        """
        return None


class StoredTargets(Targets):
    """A teacher whose features of every view are on disk.

    The store holds float16: a value is off by up to 0.05 % (2^-11), and values below 6e-5
    have steps of 6e-8. A batch is copied out of the memory map at once, sent to the
    device in float16 and converted to float32 there.
    """

    def __init__(self, store: FeatureStore, indices: Indices) -> None:
        """Read from `store`, which holds the images `indices` in this order."""
        self._store = store
        self._rows = np.full(indices.max() + 1, -1)
        self._rows[indices] = np.arange(len(indices))
        self.width = store.record.shape[3]
        self.replayed = store.record.shape[1]

    def place(self, device: torch.device) -> None:
        """Do nothing: there is no network to move."""

    def features(self, batch: ViewBatch) -> Features:
        """Return the stored features of the views.

        Raises:
            IndexError: the features of a view are not in the store.
        """
        rows = self._rows[batch.indices.numpy()]
        device = batch.pixels.device
        tokens = self._store.read(rows, batch.numbers.numpy(), pinned=device.type == "cuda")
        tokens = tokens.to(device, non_blocking=True).float()
        return Features(tokens=tokens, grid=self._store.record.grid)


class OnlineTargets(Targets):
    """A teacher that computes the features of every view when it is needed."""

    def __init__(
        self,
        teacher: FeatureExtractor,
        size: int | None = None,
        *,
        name: str = "of this run",
        images: Sequence[str] | None = None,
    ) -> None:
        """Compute with `teacher`.

        Args:
            teacher: the network.
            size: of the views it takes; None for the student's own size.
            name: of the teacher, for messages.
            images: the names of all images, for messages.
        """
        self._teacher = teacher
        self._size = size
        self._name = name
        self._images = images
        self._unseen: list[tuple[Bool[Tensor, " b"], Int64[Tensor, " b"]]] = []
        self.width = teacher.width
        self.sizes = () if size is None else (size,)

    def place(self, device: torch.device) -> None:
        """Move the teacher to `device`."""
        self._teacher.to(device)

    @torch.no_grad()
    def features(self, batch: ViewBatch) -> Features:
        """Run the teacher on the views."""
        pixels = batch.pixels if self._size is None else batch.pixels_at(self._size)
        features: Features = self._teacher(pixels)
        finite = features.tokens.isfinite().flatten(1).all(dim=1)
        self._unseen.append((finite, batch.indices))
        return features

    def fault(self) -> UsageError | None:
        """Return an error that names the first image without finite features."""
        unseen, self._unseen = self._unseen, []
        for finite, indices in unseen:
            wrong = indices[~finite.cpu()]
            if len(wrong):
                number = int(wrong[0])
                image = f"number {number}" if self._images is None else self._images[number]
                return not_finite(self._name, image, "NaN or infinite values")
        return None
