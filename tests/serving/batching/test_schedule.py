"""The schedule without threads and clocks; the test sets the time."""

import math
import random

import numpy as np
import pytest

from isogon.errors import ImageError, ImageProblem
from isogon.runtimes import Outputs
from serving.batching import BatchPlan, QueueFullError, RefusedImageError
from serving.batching.decoding_memory import Ticket
from serving.batching.job import Decoding, ImageBatch, RequestJob
from serving.batching.schedule import Schedule

PIXELS = np.zeros((2, 2, 3), np.uint8)


def schedule(
    limit: int = 1,
    in_flight: int = 1,
    capacity: int = 1000,
    fixed: float = 0.0,
    each: float = 1.0,
    patience: float = math.inf,
) -> Schedule:
    """A schedule whose runs take `fixed + each * images` seconds."""
    run_ms = {size: 1000 * (fixed + each * size) for size in (1, 2)}
    plan = BatchPlan(batch_limit=limit, in_flight=in_flight, workers=2, run_ms=run_ms)
    return Schedule(plan, capacity, patience)


class Request:
    """A job and its delivered result."""

    def __init__(self, images: int) -> None:
        self.delivered: list[Outputs | Exception] = []
        self.job = RequestJob([b""] * images, self.delivered.append)


def admitted(to: Schedule, images: int, now: float = 0.0) -> Request:
    request = Request(images)
    to.admit(request.job, now)
    return request


def begin(of: Schedule, now: float = 0.0) -> Decoding:
    work = of.next(now)
    assert isinstance(work, Decoding)
    return work


def cut(of: Schedule, now: float = 0.0) -> ImageBatch:
    work = of.next(now)
    assert isinstance(work, ImageBatch)
    return work


def decode(of: Schedule, now: float = 0.0, seconds: float = 1.0) -> Decoding:
    work = begin(of, now)
    assert not of.decoded(work, PIXELS, seconds, now)
    return work


def refused(index: int) -> RefusedImageError:
    return RefusedImageError(ImageError(ImageProblem.UNDECODABLE, "is bad."), index)


def answers(batch: ImageBatch) -> Outputs:
    """Embeddings that name their request and image."""
    rows = [(id(image.job) % 2**20, image.index) for image in batch.images]
    return Outputs(
        embeddings=np.array(rows, np.float32), ood_scores=np.zeros(len(rows), np.float32)
    )


def test_decodings_go_round_between_requests() -> None:
    waiting = schedule()
    large, small, middle = (admitted(waiting, images) for images in (5, 1, 2))
    order = [begin(waiting).job for _ in range(8)]
    assert order[:3] == [large.job, small.job, middle.job]
    assert order[3:5] == [large.job, middle.job]
    assert order[5:] == [large.job] * 3


def test_what_was_begun_is_run_before_another_image_is_decoded() -> None:
    waiting = schedule()
    admitted(waiting, 3)
    decode(waiting)
    assert len(cut(waiting).images) == 1
    begin(waiting)


def test_no_more_runs_at_a_time_than_the_plan_says() -> None:
    waiting = schedule(in_flight=2)
    admitted(waiting, 3)
    decode(waiting), cut(waiting), decode(waiting)
    second = cut(waiting)
    decode(waiting)
    assert waiting.next(0.0) == float("inf")
    waiting.ran(second, answers(second), 1.0)
    cut(waiting)


def test_a_batch_is_cut_at_the_limit() -> None:
    waiting = schedule(limit=3, fixed=100.0)
    admitted(waiting, 8)
    sizes = []
    while waiting.waiting:
        work = waiting.next(0.0)
        assert not isinstance(work, float)
        if isinstance(work, ImageBatch):
            sizes.append(len(work.images))
            waiting.ran(work, answers(work), 1.0)
        else:
            waiting.decoded(work, PIXELS, 0.1, 0.0)
    assert sizes == [3, 3, 2]


def test_a_batch_waits_for_images_on_their_way_as_long_as_they_spare() -> None:
    waiting = schedule(limit=8, fixed=1.0)
    admitted(waiting, 3)
    decode(waiting, 10.0, seconds=0.1), begin(waiting, 10.0), begin(waiting, 10.0)
    # Two are on their way, and each is spared one second.
    assert waiting.next(10.5) == pytest.approx(1.5)
    assert len(cut(waiting, 12.1).images) == 1


def test_images_that_are_ready_share_the_wait() -> None:
    waiting = schedule(limit=8, fixed=1.0)
    admitted(waiting, 3)
    decode(waiting, 10.0, seconds=0.1), decode(waiting, 10.0, seconds=0.1)
    begin(waiting, 10.0)
    assert waiting.next(10.0) == pytest.approx(0.5)
    assert len(cut(waiting, 10.6).images) == 2


def test_nothing_waits_where_no_image_is_on_its_way() -> None:
    waiting = schedule(limit=8, fixed=100.0)
    admitted(waiting, 1)
    decode(waiting)
    assert len(cut(waiting).images) == 1


def test_nothing_waits_where_a_batch_spares_nothing() -> None:
    waiting = schedule(limit=8, fixed=0.0)
    admitted(waiting, 3)
    first, _, _ = (begin(waiting) for _ in range(3))
    waiting.decoded(first, PIXELS, 0.1, 0.0)
    assert len(cut(waiting).images) == 1


def test_nothing_waits_for_an_image_that_is_expected_too_late() -> None:
    waiting = schedule(limit=8, fixed=1.0)
    admitted(waiting, 2)
    first, _ = (begin(waiting) for _ in range(2))
    waiting.decoded(first, PIXELS, 60.0, 0.0)
    assert len(cut(waiting).images) == 1


def test_what_waits_for_a_batch_leaves_the_thread_free_to_decode() -> None:
    waiting = schedule(limit=8, fixed=1.0)
    admitted(waiting, 3)
    decode(waiting, seconds=0.1)
    begin(waiting)


def test_a_request_that_does_not_fit_changes_nothing() -> None:
    waiting = schedule(capacity=4, each=2.0)
    admitted(waiting, 3)
    with pytest.raises(QueueFullError, match=r"3 images are waiting and 3 more") as full:
        admitted(waiting, 3)
    assert full.value.retry_after == pytest.approx(2 * 2.0, rel=0.1)
    assert waiting.waiting == 3
    admitted(waiting, 1)


def test_images_that_run_no_longer_wait() -> None:
    waiting = schedule(capacity=1)
    admitted(waiting, 1)
    decode(waiting)
    cut(waiting)
    admitted(waiting, 1)


def test_a_dropped_request_is_neither_decoded_nor_run() -> None:
    waiting = schedule(limit=4, fixed=100.0)
    gone, other = admitted(waiting, 4), admitted(waiting, 1)
    decode(waiting)  # of the one that goes, and so it is ready
    staying = begin(waiting)
    underway = begin(waiting)
    assert (staying.job, underway.job) == (other.job, gone.job)
    waiting.drop(gone.job)
    waiting.drop(gone.job)
    assert waiting.waiting == 2  # the two that are being decoded
    assert not waiting.decoded(underway, PIXELS, 1.0, 0.0)
    waiting.decoded(staying, PIXELS, 1.0, 0.0)
    batch = cut(waiting)
    assert [image.job for image in batch.images] == [other.job]
    (settled,) = waiting.ran(batch, answers(batch), 1.0)
    assert settled is other.job
    assert waiting.idle and not gone.delivered


def test_the_first_bad_image_is_named_whichever_fails_first() -> None:
    waiting = schedule()
    request = admitted(waiting, 5)
    works = [begin(waiting) for _ in range(3)]
    assert not waiting.decoded(works[2], refused(2), 1.0, 0.0)
    assert waiting.waiting == 2  # nothing more of it is begun
    assert not waiting.decoded(works[1], refused(1), 1.0, 0.0)
    (job,) = waiting.decoded(works[0], PIXELS, 1.0, 0.0)
    job.settle()
    (error,) = request.delivered
    assert isinstance(error, RefusedImageError) and error.index == 1
    assert waiting.idle


def test_a_failed_run_costs_the_requests_of_its_batch_and_no_other() -> None:
    waiting = schedule(limit=2, fixed=100.0, in_flight=2)
    first, second, third = (admitted(waiting, images) for images in (3, 1, 1))
    decode(waiting), decode(waiting)
    failing = cut(waiting)
    assert [image.job for image in failing.images] == [first.job, second.job]
    decode(waiting)
    error = RuntimeError("no memory")
    for job in waiting.ran(failing, error, 1.0):
        job.settle()
    assert first.delivered == second.delivered == [error]
    batch = cut(waiting)
    assert [image.job for image in batch.images] == [third.job]
    for job in waiting.ran(batch, answers(batch), 1.0):
        job.settle()
    assert len(third.delivered) == 1 and isinstance(third.delivered[0], Outputs)
    assert waiting.idle


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_each_request_is_settled_once_with_its_own(seed: int) -> None:
    chance = random.Random(seed)
    limit, in_flight = chance.choice([1, 3, 8]), chance.choice([1, 2, 4])
    waiting = schedule(limit, in_flight, capacity=40, fixed=chance.choice([0.0, 0.5, 5.0]))
    now = 0.0
    requests: list[Request] = []
    dropped: set[RequestJob] = set()
    works: list[Decoding | ImageBatch] = []
    left = 60
    while left or works or not waiting.idle:
        now += chance.random()
        if left and chance.random() < 0.4:
            left -= 1
            request = Request(chance.randint(1, 12))
            try:
                waiting.admit(request.job, now)
            except QueueFullError:
                continue
            requests.append(request)
        if requests and chance.random() < 0.1:
            job = chance.choice(requests).job
            if not job.over:
                dropped.add(job)
            waiting.drop(job)
        if len(works) < 5:
            work = waiting.next(now)
            if not isinstance(work, float):
                works.append(work)
            else:
                assert works or waiting.idle  # nothing is ever stuck
        running = [work for work in works if isinstance(work, ImageBatch)]
        assert len(running) <= in_flight
        assert all(1 <= len(batch.images) <= limit for batch in running)
        assert 0 <= waiting.waiting <= 40
        if works and chance.random() < 0.8:
            work = works.pop(chance.randrange(len(works)))
            if isinstance(work, ImageBatch):
                failed = chance.random() < 0.05
                found = RuntimeError("broken") if failed else answers(work)
                settled = waiting.ran(work, found, chance.random())
            else:
                bad = chance.random() < 0.05
                pixels = refused(work.index) if bad else PIXELS
                settled = waiting.decoded(work, pixels, chance.random(), now)
            for job in settled:
                job.settle()
    assert waiting.waiting == 0
    for request in requests:
        if request.job in dropped:
            assert not request.delivered
            continue
        (found,) = request.delivered
        if isinstance(found, Outputs):
            expected = [
                (id(request.job) % 2**20, index) for index in range(len(request.job))
            ]
            assert found.embeddings.tolist() == np.array(expected, np.float32).tolist()


def test_no_more_work_is_admitted_than_may_wait() -> None:
    busy = schedule(patience=10.0)  # runs of one second for an image
    admitted(busy, 20)  # alone it may be more: nothing else would be done meanwhile
    with pytest.raises(
        QueueFullError, match=r"21\.\d s of work; the queue holds 10\.0"
    ) as no:
        admitted(busy, 1)
    assert no.value.retry_after == pytest.approx(11.0, rel=0.05)


def test_who_has_waited_long_goes_first() -> None:
    busy = schedule(patience=10.0)
    large = admitted(busy, 4, now=0.0)
    small = [admitted(busy, 1, now=1.0) for _ in range(3)]
    assert begin(busy, 2.0).job is large.job
    assert begin(busy, 2.0).job is small[0].job
    assert [begin(busy, 10.5).job for _ in range(3)] == [large.job] * 3
    assert begin(busy, 10.5).job is small[1].job


def test_a_large_image_is_put_off_while_others_pass() -> None:
    waiting = schedule()
    large, small = admitted(waiting, 1), admitted(waiting, 1)
    ticket = Ticket(1, lambda _: True)
    assert waiting.park(begin(waiting), ticket) == []
    assert decode(waiting).job is small.job
    assert cut(waiting).images[0].job is small.job
    assert waiting.next(0.0) == math.inf
    assert waiting.waiting == 1
    assert waiting.call(ticket)
    work = begin(waiting)
    assert (work.job, work.ticket) == (large.job, ticket)


def test_a_large_image_of_a_dropped_request_is_forgotten() -> None:
    waiting = schedule()
    request = admitted(waiting, 1)
    ticket = Ticket(1, lambda _: True)
    waiting.park(begin(waiting), ticket)
    waiting.drop(request.job)
    assert waiting.idle
    assert not waiting.call(ticket)


def test_of_large_images_too_the_first_that_fails_is_named() -> None:
    waiting = schedule()
    request = admitted(waiting, 3)
    tickets = [Ticket(1, lambda _: True) for _ in range(2)]
    first, second, third = (begin(waiting) for _ in range(3))
    waiting.park(first, tickets[0])
    assert not waiting.decoded(second, refused(1), 1.0, 0.0)
    assert waiting.park(third, tickets[1]) == []  # no longer needed
    assert not waiting.call(tickets[1])
    assert waiting.call(tickets[0])
    assert waiting.decoded(begin(waiting), refused(0), 1.0, 0.0) == [request.job]
    request.job.settle()
    assert "images[0]" in str(request.delivered[0])
