"""The threads that do the work of the schedule: both decodings and runs."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import UInt8

from isogon.errors import ImageError, ImageProblem
from isogon.images import DecodingCost
from isogon.runtimes import Outputs, Runner
from serving.batching.decoding_memory import LargeImageError, Room, Ticket
from serving.batching.job import (
    ClosedError,
    Decoding,
    ImageBatch,
    NoMemoryError,
    RefusedImageError,
    RequestJob,
    RunError,
)
from serving.batching.observer import Observer, Trail
from serving.batching.schedule import Schedule

Admit = Callable[[DecodingCost], None]

_log = logging.getLogger("isogon.serving")


class Workers:
    """Threads that fetch their work from the schedule.

    A thread that has finished fetches its next work under the schedule's lock, without the
    event loop: a single image costs two wake-ups, of a thread and of the loop. Idle threads
    are woken last-in, first-out: their cores and caches are warm (3 % faster for single
    images, one at a time).

    Args:
        count: of threads.
        schedule: where the work comes from.
        decode: turns an encoded image into the runner's pixels; raises ImageError. It
            calls its second argument with the cost before it begins.
        runner: what runs batches, several at a time.
        observer: is told every step.
        room: memory for large images.
    """

    def __init__(
        self,
        count: int,
        schedule: Schedule,
        decode: Callable[[bytes, Admit | None], UInt8[np.ndarray, "h w 3"]],
        runner: Runner,
        observer: Observer,
        room: Room,
    ) -> None:
        self._schedule = schedule
        self._decode_image = decode
        self._runner = runner
        self._observer = observer
        self._room = room
        self._lock = threading.Lock()
        self._idle: list[threading.Condition] = []  # one for each thread that waits
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"isogon-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: RequestJob) -> None:
        """Accept a request.

        Raises:
            QueueFullError: its images do not fit.
            ClosedError: the threads are closed.
        """
        with self._lock:
            if self._closed:
                raise ClosedError(
                    "The service is shutting down. Send the request again in a moment."
                )
            self._schedule.admit(job, time.perf_counter())
            self._observer.depth(self._schedule.waiting)
            self._wake(len(job))

    def drop(self, job: RequestJob) -> None:
        """Drop all work of a request that was not begun; nobody waits for it."""
        if job.over:
            return
        with self._lock:
            self._schedule.drop(job)
            self._observer.depth(self._schedule.waiting)

    def close(self) -> None:
        """Accept nothing more, finish what was accepted, and end the threads."""
        with self._lock:
            self._closed = True
            self._wake(len(self._idle))
        for thread in self._threads:
            thread.join()

    def _wake(self, count: int) -> None:
        for _ in range(min(count, len(self._idle))):
            self._idle.pop().notify()

    def _work(self) -> None:
        wake = threading.Condition(self._lock)
        while (work := self._next(wake)) is not None:
            # Each step handles its own errors. This is for errors in observers.
            try:
                if isinstance(work, ImageBatch):
                    self._run(work)
                else:
                    self._decode(work)
            except Exception:
                _log.exception("A step of the pipeline failed unexpectedly")
            del work  # an idle thread would keep the request's images

    def _next(self, wake: threading.Condition) -> ImageBatch | Decoding | None:
        """Wait for work and return it; None after `close`, when all work is done."""
        with self._lock:
            while True:
                found = self._schedule.next(time.perf_counter())
                if isinstance(found, ImageBatch):
                    self._observer.depth(self._schedule.waiting)
                if not isinstance(found, float):
                    return found
                if self._closed and self._schedule.idle:
                    self._wake(len(self._idle))
                    return None
                self._idle.append(wake)
                wake.wait(None if found == math.inf else found)
                if wake in self._idle:  # the wait timed out
                    self._idle.remove(wake)

    def _decode(self, work: Decoding) -> None:
        start = time.perf_counter()
        found: UInt8[np.ndarray, "h w 3"] | Exception
        # An error's traceback holds the images, and the request holds the error. Without
        # `with_traceback(None)` only the garbage collector would free them.
        try:
            found = self._pixels(work)
        except LargeImageError as large:
            return self._park(work, large.cost)
        except ImageError as error:
            found = RefusedImageError(error, work.index)
        except MemoryError:
            _log.error("No memory for an image")
            found = NoMemoryError(
                f"There is no memory for images[{work.index}] now. Send the request again "
                f"later."
            )
        except Exception as error:  # of this image
            _log.exception("Decoding an image failed because of an error in the service")
            found = error.with_traceback(None)
        end = time.perf_counter()
        with self._lock:
            settled = self._schedule.decoded(work, found, end - start, end)
            self._observer.depth(self._schedule.waiting)
        try:
            self._observe_decoding(work.job, start, end)
        finally:
            _settle(settled)

    def _pixels(self, work: Decoding) -> UInt8[np.ndarray, "h w 3"]:
        """Return the pixels of an image.

        Raises:
            ImageError: it does not decode.
            LargeImageError: it is large and has no ticket.
        """
        image = work.job.images[work.index]
        if work.ticket is None:
            return self._decode_image(image, self._room.admit)
        try:
            return self._decode_image(image, None)
        finally:
            self._room.leave(work.ticket)

    def _park(self, work: Decoding, cost: DecodingCost) -> None:
        """Let a large image wait for memory; refuse one that is too large to ever fit."""
        ticket = Ticket(cost.bytes, self._call)
        with self._lock:
            if cost.bytes > self._room.size:
                refused = RefusedImageError(
                    ImageError(
                        ImageProblem.TOO_LARGE,
                        f"needs {cost.bytes:,} bytes of memory for decoding; the limit of "
                        f"this service is {self._room.size:,}. Scale it down.",
                    ),
                    work.index,
                )
                now = time.perf_counter()
                settled = self._schedule.decoded(work, refused, 0.0, now)
            else:
                settled = self._schedule.park(work, ticket)
        if cost.bytes <= self._room.size:
            self._room.enter(ticket)
        _settle(settled)

    def _call(self, ticket: Ticket) -> bool:
        with self._lock:
            wanted = self._schedule.call(ticket)
            if wanted:
                self._wake(1)
            return wanted

    def _run(self, batch: ImageBatch) -> None:
        start = time.perf_counter()
        found: Outputs | Exception
        try:
            found = self._outputs(batch)
        except Exception as error:  # each runtime has classes of its own
            _log.exception("A run failed")
            found = RunError(
                f"{self._runner.name} failed on a batch of {len(batch.images)}: {error}"
            )
        end = time.perf_counter()
        with self._lock:
            settled = self._schedule.ran(batch, found, end - start)
        try:
            self._observe_run(batch, start, end)
        finally:
            _settle(settled)

    def _observe_decoding(self, job: RequestJob, start: float, end: float) -> None:
        self._observer.queued(start - job.admitted)
        self._observer.decoded(end - start)
        if job.trail is not None:
            job.trail.step("queue", job.admitted, start, 1)
            job.trail.step("decode", start, end, 1)

    def _observe_run(self, batch: ImageBatch, start: float, end: float) -> None:
        since: dict[Trail, list[float]] = {}
        for image in batch.images:
            self._observer.batched(start - image.since)
            if image.job.trail is not None:
                since.setdefault(image.job.trail, []).append(image.since)
        self._observer.ran(len(batch.images), end - start)
        for trail, times in since.items():
            trail.step("batch", min(times), start, len(times))
            trail.step("run", start, end, len(times))

    def _outputs(self, batch: ImageBatch) -> Outputs:
        if len(batch.images) == 1:
            pixels = batch.images[0].pixels[None]  # saves the copy
        else:
            pixels = np.stack([image.pixels for image in batch.images])
        outputs = self._runner.run(pixels)
        if len(outputs) != len(pixels):
            raise ValueError(f"{len(pixels)} images gave {len(outputs)} answers")
        return outputs


def _settle(jobs: Iterable[RequestJob]) -> None:
    for job in jobs:
        job.settle()
