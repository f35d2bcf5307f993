"""One model's pipeline from encoded images to outputs: decode, batch, run."""

import asyncio
import contextlib
from functools import partial

import numpy as np

from isogon.runtimes import Outputs
from isogon.runtimes.device import usable_cores
from serving.batching.decoding_memory import Room
from serving.batching.job import DeadlineError, RequestJob
from serving.batching.measurement import BatchPlan, measured_plan
from serving.batching.observer import Observer
from serving.batching.schedule import Schedule
from serving.batching.workers import Workers
from serving.served_model import ServedModel

# The work that may wait, as a share of the deadline. Requests finish within twice that.
_PATIENCE = 0.45


class Pipeline:
    """Decodes images one by one and runs them in batches, if batches are faster.

    The constructor starts the threads and needs no event loop. `plan` has what was
    measured and decided.

    Args:
        model: what answers.
        observer: is told every step; give each pipeline its own.
        plan: of this model; None: it is measured now, within half a second.
        room: memory for large images, shared with other models; None: its own.
    """

    def __init__(
        self,
        model: ServedModel,
        observer: Observer | None = None,
        plan: BatchPlan | None = None,
        room: Room | None = None,
    ) -> None:
        self.model = model
        self.observer = observer or Observer()
        self.plan = plan or plan_for(model)
        settings = model.settings
        self._deadline = settings.deadline
        self._workers = Workers(
            self.plan.workers,
            Schedule(self.plan, settings.queue, _PATIENCE * settings.deadline),
            model.pixels,
            model.runner,
            self.observer,
            room or Room.of(settings),
        )

    async def answer(self, images: list[bytes]) -> Outputs:
        """Return the outputs of a request's images, at least one, in their order.

        If the caller is cancelled, images not yet begun are dropped.

        Raises:
            RefusedImageError: an image does not decode or exceeds a limit.
            QueueFullError: too many images are waiting; none of these was decoded.
            DeadlineError: it took longer than `ISOGON_DEADLINE`.
            ClosedError: the pipeline was closed.
            NoMemoryError: the system has no memory for an image.
            RunError: the runtime failed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outputs] = loop.create_future()
        job = RequestJob(images, partial(_deliver, loop, future), self.observer.trail())
        self._workers.submit(job)
        try:
            async with asyncio.timeout(self._deadline):
                return await future
        except TimeoutError as error:
            raise DeadlineError(
                f"The request was not answered within {self._deadline:g} s and was "
                f"dropped. Send fewer images, or send it again later."
            ) from error
        finally:
            self._workers.drop(job)
            del future, job  # they hold the error, whose traceback holds this frame

    async def close(self) -> None:
        """Accept nothing more, finish what was accepted, and end the threads."""
        await asyncio.to_thread(self._workers.close)


def plan_for(model: ServedModel) -> BatchPlan:
    """Measure a model on this machine, within half a second."""
    image = model.manifest.preprocessing
    return measured_plan(
        model.runner,
        np.zeros((1, image.height, image.width, 3), np.uint8),
        cores=model.settings.cores or usable_cores(),
        threads=model.settings.threads,
    )


def _deliver(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Outputs],
    result: Outputs | Exception,
) -> None:
    """Hand a result from a worker's thread to the event loop that waits for it."""
    with contextlib.suppress(RuntimeError):  # the loop ended: nobody waits
        loop.call_soon_threadsafe(_resolve, future, result)


def _resolve(future: asyncio.Future[Outputs], result: Outputs | Exception) -> None:
    if future.done():  # cancelled
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
