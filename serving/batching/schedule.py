"""The schedule: it decides the order of work, the batches, and what the queue accepts."""

import math
from collections import deque
from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from isogon.runtimes import Outputs
from serving.batching.decoding_memory import Ticket
from serving.batching.job import Decoded, Decoding, ImageBatch, QueueFullError, RequestJob
from serving.batching.measurement import BatchPlan, Pace


class Schedule:
    """All admitted images: to be decoded, in decoding, ready, or running.

    Runs come before decodings, so that begun work is finished. Requests take turns in
    decoding, so that a request of many images does not delay a small one; a request that
    has waited for `patience` comes first. The schedule has no threads and no clock:
    callers hold a lock and pass the time in seconds.

    Args:
        plan: batch limit and runs at a time.
        capacity: the most images that are admitted and do not run yet.
        patience: seconds of work that may wait. After that time a request comes first, and
            the work before it is no more than that, so it is done within twice the time.
    """

    def __init__(self, plan: BatchPlan, capacity: int, patience: float = math.inf) -> None:
        self._plan = plan
        self._capacity = capacity
        self._patience = patience
        self._pace = Pace.fitted(plan.run_seconds)
        self._rotation: deque[RequestJob] = deque()  # requests with images to decode
        self._oldest: dict[RequestJob, None] = {}  # the same requests, in order of arrival
        self._to_decode = 0
        self._decoding = 0  # including those parked or called
        self._parked: dict[Ticket, Decoding] = {}  # large images that wait for memory
        self._called: deque[Decoding] = deque()  # large images that have memory
        self._ready: deque[Decoded] = deque()
        self._running = 0

    @property
    def waiting(self) -> int:
        """How many images are admitted and do not run yet."""
        return self._to_decode + self._decoding + len(self._ready)

    @property
    def idle(self) -> bool:
        """Whether no work waits or is being done."""
        return self.waiting == self._running == 0

    def admit(self, job: RequestJob, now: float) -> None:
        """Accept a request, with all of its images.

        Raises:
            QueueFullError: its images do not fit.
        """
        excess = self.waiting + len(job) - self._capacity
        if excess > 0:
            raise QueueFullError(
                f"{self.waiting} images are waiting and {len(job)} more came; the queue "
                f"holds {self._capacity}. Send the request again later.",
                retry_after=excess * self._seconds_per_image(),
            )
        work = (self.waiting + len(job)) * self._seconds_per_image()
        if self.waiting and work > self._patience:
            raise QueueFullError(
                f"{self.waiting} images are waiting and {len(job)} more came, which is "
                f"{work:.1f} s of work; the queue holds {self._patience:.1f} s of it. "
                f"Send the request again later.",
                retry_after=work - self._patience,
            )
        job.admitted = now
        self._rotation.append(job)
        self._oldest[job] = None
        self._to_decode += len(job)

    def drop(self, job: RequestJob) -> None:
        """Drop all work of a request that was not begun."""
        if job.over:
            return
        job.over = True
        self._let_go(job)

    def next(self, now: float) -> ImageBatch | Decoding | float:
        """Return the next work for a free thread, or for how many seconds to wait.

        The wait ends earlier if new work arrives.
        """
        wait = math.inf
        if self._ready and self._running < self._plan.in_flight:
            wait = self._seconds_to_fill(now)
            if wait <= 0:
                return self._cut()
        if self._called:
            return self._called.popleft()
        if self._rotation:
            return self._begin(now)
        return wait

    def park(self, work: Decoding, ticket: Ticket) -> list[RequestJob]:
        """Put off a decoding until its ticket is called; return requests to settle."""
        job = work.job
        if job.needs(work.index):
            self._parked[ticket] = work
            return []
        self._decoding -= 1
        job.decoding -= 1
        return [job] if not job.over and _ends(job) else []

    def call(self, ticket: Ticket) -> bool:
        """Accept the memory for a large image; return whether it is still needed."""
        work = self._parked.pop(ticket, None)
        if work is None:
            return False
        self._called.append(replace(work, ticket=ticket))
        return True

    def decoded(
        self,
        work: Decoding,
        found: UInt8[np.ndarray, "h w 3"] | Exception,
        seconds: float,
        now: float,
    ) -> list[RequestJob]:
        """Accept the result of a decoding; return the requests to settle."""
        job = work.job
        self._decoding -= 1
        job.decoding -= 1
        self._pace.learn_decoding(seconds)
        if job.over:
            return []
        if isinstance(found, Exception):
            job.fail(work.index, found)
            self._let_go(job)
        elif not job.failed:
            self._ready.append(Decoded(job=job, index=work.index, pixels=found, since=now))
        return [job] if _ends(job) else []

    def ran(
        self, batch: ImageBatch, found: Outputs | Exception, seconds: float
    ) -> list[RequestJob]:
        """Accept the result of a run; return the requests to settle."""
        self._running -= 1
        jobs: list[RequestJob] = []
        if not isinstance(found, Exception):
            self._pace.learn_run(len(batch.images), seconds)
        for row, image in enumerate(batch.images):
            job = image.job
            if job.over:
                continue
            if isinstance(found, Exception):
                job.fail(image.index, found)
                self._let_go(job)
            else:
                job.answer(image.index, found.embeddings[row], found.ood_scores[row])
            if _ends(job):
                jobs.append(job)
        return jobs

    def _seconds_to_fill(self, now: float) -> float:
        """Return for how many seconds a batch may still be filled; 0: run it now.

        Each image that joins a batch saves the fixed cost of a run. So the waiting times
        of the ready images may add up to `fixed` times the number of images that are
        coming. The cost is then at most twice that of an optimal schedule that knows the
        future: Dooly, Goldman and Scott, "On-line analysis of the TCP acknowledgment delay
        problem", J. ACM 48(2), 2001 (their rule has 1 in place of the number of coming
        images). The batch runs now if the next image is expected later than that.
        """
        coming = self._to_decode + self._decoding - len(self._parked)
        ready = len(self._ready)
        if ready >= self._plan.batch_limit or not coming:
            return 0.0
        waited = sum(now - image.since for image in self._ready)
        left = (self._pace.fixed * coming - waited) / ready
        # The calling thread may decode too.
        hands = self._decoding - len(self._parked) + bool(self._to_decode)
        return left if self._pace.decoding / hands <= left else 0.0

    def _cut(self) -> ImageBatch:
        size = min(len(self._ready), self._plan.batch_limit)
        self._running += 1
        return ImageBatch(images=tuple(self._ready.popleft() for _ in range(size)))

    def _begin(self, now: float) -> Decoding:
        job = next(iter(self._oldest))
        if now - job.admitted > self._patience:
            self._rotation.remove(job)
        else:
            job = self._rotation.popleft()
        work = Decoding(job=job, index=job.begun)
        job.begun += 1
        job.decoding += 1
        self._to_decode -= 1
        self._decoding += 1
        if job.begun < len(job):
            self._rotation.append(job)
        else:
            del self._oldest[job]
        return work

    def _let_go(self, job: RequestJob) -> None:
        if job.begun < len(job):
            self._rotation.remove(job)
            del self._oldest[job]
            self._to_decode -= len(job) - job.begun
            job.begun = len(job)
        for ticket in [
            ticket
            for ticket, work in self._parked.items()
            if work.job is job and not job.needs(work.index)
        ]:
            del self._parked[ticket]
            self._decoding -= 1
            job.decoding -= 1
        self._ready = deque(image for image in self._ready if image.job is not job)

    def _seconds_per_image(self) -> float:
        limit = self._plan.batch_limit
        run = self._pace.run(limit) / limit
        return self._pace.decoding / self._plan.workers + run / self._plan.in_flight


def _ends(job: RequestJob) -> bool:
    """Return whether a request is to be settled now, and mark it as over.

    A failed request waits for its images in decoding: an earlier image may fail too, and
    the error names the first one.
    """
    job.over = job.answered or (job.failed and not job.decoding)
    return job.over
