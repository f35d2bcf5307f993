"""The threads that do what the schedule says: decodings and runs share them."""

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
from serving.batching.job import (
    Batch,
    ClosedError,
    Decoding,
    Job,
    NoMemoryError,
    RefusedImageError,
    RunError,
)
from serving.batching.observer import Observer, Trail
from serving.batching.room import LargeImageError, Room, Ticket
from serving.batching.schedule import Schedule

Admit = Callable[[DecodingCost], None]

_log = logging.getLogger("isogon.serving")


class Workers:
    """Threads that take their work themselves.

    One that has finished something looks for the next under the schedule's lock, and no
    event loop stands between: an image on its own costs two wake-ups, a thread's and
    the loop's, whatever the loop is busy with. Of several that rest the last to lie down
    is woken first: its core and caches are still warm, which made single images a
    thirtieth faster, one at a time.

    Args:
        count: of threads.
        schedule: what they ask.
        decode: from an encoded image to the runner's pixels; raises ImageError. It tells
            what that will take before it begins.
        runner: what runs batches, several at a time.
        observer: hears of every step.
        room: what large images share.
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
        self._resting: list[threading.Condition] = []  # the alarms of threads that wait
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"isogon-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Accept a request.

        Raises:
            QueueFullError: its images do not fit.
            ClosedError: nothing is accepted any more.
        """
        with self._lock:
            if self._closed:
                raise ClosedError("The service is shutting down. Ask again in a moment.")
            self._schedule.admit(job, time.perf_counter())
            self._observer.depth(self._schedule.waiting)
            self._wake(len(job))

    def drop(self, job: Job) -> None:
        """Let go of all that was not yet begun of a request; nobody waits for it."""
        if job.over:
            return
        with self._lock:
            self._schedule.drop(job)
            self._observer.depth(self._schedule.waiting)

    def close(self) -> None:
        """Accept nothing more, finish what was accepted, and end the threads."""
        with self._lock:
            self._closed = True
            self._wake(len(self._resting))
        for thread in self._threads:
            thread.join()

    def _wake(self, count: int) -> None:
        for _ in range(min(count, len(self._resting))):
            self._resting.pop().notify()

    def _work(self) -> None:
        alarm = threading.Condition(self._lock)
        while (work := self._next(alarm)) is not None:
            # Each step guards what may fail; this is for what should not, in observers.
            try:
                if isinstance(work, Batch):
                    self._run(work)
                else:
                    self._decode(work)
            except Exception:
                _log.exception("A step of the pipeline failed for a reason of its own")
            del work  # or the request's images stay while this thread rests

    def _next(self, alarm: threading.Condition) -> Batch | Decoding | None:
        """Return what to do, once there is something; None if nothing will come."""
        with self._lock:
            while True:
                found = self._schedule.next(time.perf_counter())
                if isinstance(found, Batch):
                    self._observer.depth(self._schedule.waiting)
                if not isinstance(found, float):
                    return found
                if self._closed and self._schedule.idle:
                    self._wake(len(self._resting))
                    return None
                self._resting.append(alarm)
                alarm.wait(None if found == math.inf else found)
                if alarm in self._resting:  # nobody woke it, the time was over
                    self._resting.remove(alarm)

    def _decode(self, work: Decoding) -> None:
        start = time.perf_counter()
        found: UInt8[np.ndarray, "h w 3"] | Exception
        # An error's traceback holds the images, and the request holds its error. Only the
        # garbage collector would free them.
        try:
            found = self._pixels(work)
        except LargeImageError as large:
            return self._park(work, large.cost)
        except ImageError as error:
            found = RefusedImageError(error, work.index)
        except MemoryError:
            _log.error("There was no memory for an image")
            found = NoMemoryError(
                f"There is no memory for images[{work.index}] right now. Send the request "
                f"again later."
            )
        except Exception as error:  # of this image
            _log.exception("An image was not decoded for a reason that is our fault")
            found = error.with_traceback(None)
        end = time.perf_counter()
        with self._lock:
            settled = self._schedule.decoded(work, found, end - start, end)
            self._observer.depth(self._schedule.waiting)
        try:
            self._tell_of_decoding(work.job, start, end)
        finally:
            _settle(settled)

    def _pixels(self, work: Decoding) -> UInt8[np.ndarray, "h w 3"]:
        """Return the pixels of an image.

        Raises:
            ImageError: it does not decode.
            LargeImageError: it is large, and has no ticket.
        """
        image = work.job.images[work.index]
        if work.ticket is None:
            return self._decode_image(image, self._room.admit)
        try:
            return self._decode_image(image, None)
        finally:
            self._room.leave(work.ticket)

    def _park(self, work: Decoding, cost: DecodingCost) -> None:
        """Let a large image stand in line; refuse one for which there is never room."""
        ticket = Ticket(cost.bytes, self._call)
        with self._lock:
            if cost.bytes > self._room.size:
                refused = RefusedImageError(
                    ImageError(
                        ImageProblem.TOO_LARGE,
                        f"takes {cost.bytes:,} bytes to decode, and this service has "
                        f"{self._room.size:,} for that. Scale it down.",
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

    def _run(self, batch: Batch) -> None:
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
            self._tell_of_run(batch, start, end)
        finally:
            _settle(settled)

    def _tell_of_decoding(self, job: Job, start: float, end: float) -> None:
        self._observer.queued(start - job.admitted)
        self._observer.decoded(end - start)
        if job.trail is not None:
            job.trail.step("queue", job.admitted, start, 1)
            job.trail.step("decode", start, end, 1)

    def _tell_of_run(self, batch: Batch, start: float, end: float) -> None:
        since: dict[Trail, list[float]] = {}
        for image in batch.images:
            self._observer.batched(start - image.since)
            if image.job.trail is not None:
                since.setdefault(image.job.trail, []).append(image.since)
        self._observer.ran(len(batch.images), end - start)
        for trail, times in since.items():
            trail.step("batch", min(times), start, len(times))
            trail.step("run", start, end, len(times))

    def _outputs(self, batch: Batch) -> Outputs:
        if len(batch.images) == 1:
            pixels = batch.images[0].pixels[None]  # spares the copy
        else:
            pixels = np.stack([image.pixels for image in batch.images])
        outputs = self._runner.run(pixels)
        if len(outputs) != len(pixels):
            raise ValueError(f"{len(pixels)} images gave {len(outputs)} answers")
        return outputs


def _settle(jobs: Iterable[Job]) -> None:
    for job in jobs:
        job.settle()
