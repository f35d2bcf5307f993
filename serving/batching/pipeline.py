"""One model's way from encoded images to outputs."""

import os
import time

import anyio
import numpy as np
from jaxtyping import UInt8

from bundle import ImageError, Outputs
from serving.batching.errors import RefusedImageError
from serving.batching.observer import Observer, Trail
from serving.served import ServedModel


class Pipeline:
    """Decodes every image on its own, then runs those of a request together."""

    def __init__(self, model: ServedModel, observer: Observer | None = None) -> None:
        self.model = model
        self.observer = observer or Observer()
        # Bounds the memory of decoding and the runs at once.
        self._slots = anyio.CapacityLimiter(os.cpu_count() or 1)

    async def answer(self, images: list[bytes]) -> Outputs:
        """Return the outputs of a request's images, in their order.

        Raises:
            RefusedImageError: an image does not decode or is past a limit.
        """
        # One at a time: the slots then go round between requests, whatever their size.
        trail = self.observer.trail()
        pixels = np.stack(
            [await self._pixels(data, i, trail) for i, data in enumerate(images)]
        )
        start = time.perf_counter()
        outputs = await anyio.to_thread.run_sync(
            self.model.runner.run, pixels, limiter=self._slots
        )
        end = time.perf_counter()
        self.observer.ran(len(images), end - start)
        if trail is not None:
            trail.step("run", start, end, len(images))
        return outputs

    async def _pixels(
        self, data: bytes, index: int, trail: Trail | None
    ) -> UInt8[np.ndarray, "h w 3"]:
        start = time.perf_counter()
        try:
            return await anyio.to_thread.run_sync(
                self.model.pixels, data, limiter=self._slots
            )
        except ImageError as error:
            raise RefusedImageError(error, index) from error
        finally:
            end = time.perf_counter()
            self.observer.decoded(end - start)
            if trail is not None:
                trail.step("decode", start, end, 1)
