"""A training loader with a clock."""

import time
from collections.abc import Iterator

import torch

from distill.images.loading import TrainingViews, ViewBatch


class ClockedViews:
    """The loader with a clock, from the end of the warm-up to the last demand.

    The last step is not measured, because a loop may do what ends a run within it.
    """

    def __init__(self, views: TrainingViews, warm_up: int, device: torch.device) -> None:
        self._views = views
        self._warm_up = warm_up
        self._device = device
        self.started = self.stopped = self.waited = self.computed = 0.0

    def __len__(self) -> int:
        return len(self._views)

    @property
    def batch_size(self) -> int:
        """The images of a step."""
        return self._views.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[ViewBatch, ...]]:
        """Yield the steps of an epoch; the clock counts from one demand to the next."""
        batches = self._views.epoch(epoch, start)
        for step in range(start, len(self)):
            if step == self._warm_up:
                self.started, self.waited = self._now(), 0.0
                self.computed = -time.process_time()
            if step == len(self) - 1:
                self.stopped = self._now()
                self.computed += time.process_time()
                yield next(batches)
                break
            asked = time.perf_counter()
            micro_batches = next(batches)
            self.waited += time.perf_counter() - asked
            yield micro_batches
        next(batches, None)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
