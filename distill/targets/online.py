"""Features computed when they are needed."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from distill.images.loading import Batch
from distill.targets.finite import not_finite
from distill.targets.targets import Targets
from isogon.errors import UsageError
from isogon.networks import FeatureExtractor, Features


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
            size: of the views it looks at; None for the student's own.
            name: by which messages call it.
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
    def features(self, batch: Batch) -> Features:
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
