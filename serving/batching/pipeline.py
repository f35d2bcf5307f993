"""One model's way from encoded images to outputs."""

import os

import anyio
import numpy as np
from jaxtyping import UInt8

from bundle import ImageError, Outputs
from serving.served import ServedModel


class RefusedImageError(Exception):
    """One image of a request is refused; no other request is affected."""

    def __init__(self, error: ImageError, index: int) -> None:
        super().__init__(f"images[{index}] {error}")
        self.error = error
        self.index = index


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

    async def close(self) -> None:
        """Finish what was accepted."""

    async def _pixels(self, data: bytes, index: int) -> UInt8[np.ndarray, "h w 3"]:
        try:
            return await anyio.to_thread.run_sync(
                self.model.pixels, data, limiter=self._slots
            )
        except ImageError as error:
            raise RefusedImageError(error, index) from error
