"""What is to be done next: the one place where order, batches and limits are decided."""

import math
from collections import deque
from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from isogon.runtimes import Outputs
from serving.batching.job import Batch, Decoded, Decoding, Job, QueueFullError
from serving.batching.measurement import BatchPlan, Pace
from serving.batching.room import Ticket


class Schedule:
    """Every admitted image: to be decoded, being decoded, ready, or running.

    Runs go before decodings, so that what was begun is finished. Decodings go round
    between requests, so that one of many images keeps no small one waiting; a request
    that has waited for `patience` goes first. It knows neither threads nor clocks:
    callers hold a lock and tell the time in seconds.

    Args:
        plan: batch limit and runs at a time.
        capacity: the most images that are admitted and do not yet run.
        patience: seconds of work that may wait. A request that waited as long is then
            done within twice this time, for all before it are no more work than that.
    """

    def __init__(self, plan: BatchPlan, capacity: int, patience: float = math.inf) -> None:
        self._plan = plan
        self._capacity = capacity
        self._most_seconds = patience
        self._pace = Pace.fitted(plan.run_seconds)
        self._rotation: deque[Job] = deque()  # those with images to be decoded
        self._oldest: dict[Job, None] = {}  # the same ones, in the order they came
        self._to_decode = 0
        self._decoding = 0  # with those that are parked or called
        self._parked: dict[Ticket, Decoding] = {}  # large ones that stand in line
        self._called: deque[Decoding] = deque()  # large ones whose turn it is
        self._ready: deque[Decoded] = deque()
        self._running = 0

    @property
    def waiting(self) -> int:
        """How many images are admitted and do not yet run."""
        return self._to_decode + self._decoding + len(self._ready)

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do or being done."""
        return self.waiting == self._running == 0

    def admit(self, job: Job, now: float) -> None:
        """Take a request in, all of it or nothing.

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
        if self.waiting and work > self._most_seconds:
            raise QueueFullError(
                f"{self.waiting} images are waiting and {len(job)} more came, which is "
                f"{work:.1f} s of work; the queue holds {self._most_seconds:.1f} s of it. "
                f"Send the request again later.",
                retry_after=work - self._most_seconds,
            )
        job.admitted = now
        self._rotation.append(job)
        self._oldest[job] = None
        self._to_decode += len(job)

    def drop(self, job: Job) -> None:
        """Let go of all that was not yet begun of a request."""
        if job.over:
            return
        job.over = True
        self._let_go(job)

    def next(self, now: float) -> Batch | Decoding | float:
        """Return what a free thread shall do, or how many seconds it may wait.

        A wait is for whatever comes first: its end, or something new to be done.
        """
        wait = math.inf
        if self._ready and self._running < self._plan.in_flight:
            wait = self._patience(now)
            if wait <= 0:
                return self._cut()
        if self._called:
            return self._called.popleft()
        if self._rotation:
            return self._begin(now)
        return wait

    def park(self, work: Decoding, ticket: Ticket) -> list[Job]:
        """Put a decoding off until its ticket is called; return requests to be settled."""
        job = work.job
        if job.needs(work.index):
            self._parked[ticket] = work
            return []
        self._decoding -= 1
        job.decoding -= 1
        return [job] if not job.over and _ends(job) else []

    def call(self, ticket: Ticket) -> bool:
        """Hear that there is room for a large image; return whether it is still wanted."""
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
    ) -> list[Job]:
        """Take in what became of a decoding; return the requests to be settled."""
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

    def ran(self, batch: Batch, found: Outputs | Exception, seconds: float) -> list[Job]:
        """Take in what became of a run; return the requests to be settled."""
        self._running -= 1
        jobs: list[Job] = []
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

    def _patience(self, now: float) -> float:
        """Return the seconds for which a batch may still be filled; 0 to run it now.

        An image that joins spares the run's fixed cost, and every image on its way is
        done sooner by as much. So the images that are ready may wait, all together, for
        `fixed` times those on their way. That stays within twice the cost of knowing
        the future: Dooly, Goldman and Scott, "On-line analysis of the TCP
        acknowledgment delay problem", J. ACM 48(2), 2001, which has one in place of our
        number on their way. And nothing waits where the next image is expected later.
        """
        coming = self._to_decode + self._decoding - len(self._parked)
        ready = len(self._ready)
        if ready >= self._plan.batch_limit or not coming:
            return 0.0
        waited = sum(now - image.since for image in self._ready)
        left = (self._pace.fixed * coming - waited) / ready
        # The caller may decode too.
        hands = self._decoding - len(self._parked) + bool(self._to_decode)
        return left if self._pace.decoding / hands <= left else 0.0

    def _cut(self) -> Batch:
        size = min(len(self._ready), self._plan.batch_limit)
        self._running += 1
        return Batch(images=tuple(self._ready.popleft() for _ in range(size)))

    def _begin(self, now: float) -> Decoding:
        job = next(iter(self._oldest))
        if now - job.admitted > self._most_seconds:
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

    def _let_go(self, job: Job) -> None:
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


def _ends(job: Job) -> bool:
    """Say whether a request is to be settled now, and mark it as over.

    One that failed is when none of its images is being decoded: those before the one
    that failed may fail too, and the first one is to be named.
    """
    job.over = job.answered or (job.failed and not job.decoding)
    return job.over
