"""One model's way from encoded images to outputs."""

import os

import anyio
import numpy as np
from jaxtyping import UInt8

from bundle import ImageError, Outputs
from serving.batching.errors import RefusedImageError
from serving.served import ServedModel


class Pipeline:
    """Decodes every image on its own, then runs those of a request together."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        # Bounds the memory of decoding and the runs at once.
        self._slots = anyio.CapacityLimiter(os.cpu_count() or 1)

    async def answer(self, images: list[bytes]) -> Outputs:
        """Return the outputs of a request's images, in their order.

        Raises:
            RefusedImageError: an image does not decode or is past a limit.
        """
        # One at a time: the slots then go round between requests, whatever their size.
        pixels = np.stack([await self._pixels(data, i) for i, data in enumerate(images)])
        return await anyio.to_thread.run_sync(
            self.model.runner.run, pixels, limiter=self._slots
        )

    async def _pixels(self, data: bytes, index: int) -> UInt8[np.ndarray, "h w 3"]:
        try:
            return await anyio.to_thread.run_sync(
                self.model.pixels, data, limiter=self._slots
            )
        except ImageError as error:
            raise RefusedImageError(error, index) from error
