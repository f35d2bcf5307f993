"""The pipeline with the real runtime, paused or slowed down where order matters."""

import asyncio
import dataclasses
import gc
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from isogon.runtimes import BatchProfile, Outputs, Pixels, Runner
from serving.batching import (
    ClosedError,
    DeadlineError,
    Observer,
    Pipeline,
    QueueFullError,
    RefusedImageError,
    RunError,
    Trail,
)
from serving.batching.job import RequestJob
from serving.served_model import ServedModel
from serving.settings import Settings

PATIENCE = 30.0  # seconds; for what takes milliseconds on a machine at rest


class Wrapped(Runner):
    """The real runner, slowed down by so many seconds, and recorded."""

    def __init__(
        self, runner: Runner, seconds: Callable[[int], float] = lambda _: 0.0
    ) -> None:
        self.name = "wrapped"
        self.sizes: list[int] = []
        self._runner = runner
        self._seconds = seconds

    def run(self, pixels: Pixels) -> Outputs:
        self.sizes.append(len(pixels))
        time.sleep(self._seconds(len(pixels)))
        return self._runner.run(pixels)


class Held(Wrapped):
    """Runs one image at a time; while held, every run waits until it is released."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.profile = BatchProfile(minimum=1, optimum=1, maximum=1)
        self.begun = threading.Semaphore(0)
        self._go = threading.Event()
        self._go.set()

    def hold(self) -> None:
        self.sizes.clear()
        self._go.clear()

    def let_go(self) -> None:
        self._go.set()

    def run(self, pixels: Pixels) -> Outputs:
        outputs = super().run(pixels)
        if not self._go.is_set():
            self.begun.release()
            assert self._go.wait(PATIENCE)
        return outputs


class Recorder(Observer):
    """Everything that the observer was called with."""

    def __init__(self) -> None:
        self.depths: list[int] = []
        self.steps: list[str] = []
        self.runs: list[int] = []

    def depth(self, images: int) -> None:
        self.depths.append(images)

    def queued(self, seconds: float) -> None:
        assert seconds >= 0
        self.steps.append("queued")

    def decoded(self, seconds: float) -> None:
        assert seconds >= 0
        self.steps.append("decoded")

    def batched(self, seconds: float) -> None:
        assert seconds >= 0
        self.steps.append("batched")

    def ran(self, images: int, seconds: float) -> None:
        assert seconds >= 0
        self.steps.append("ran")
        self.runs.append(images)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what threads bring about."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)


MakePipeline = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def model(exported: Path) -> ServedModel:
    return ServedModel.load(exported, Settings(bundle=exported))


@pytest.fixture
def pipeline(model: ServedModel) -> Iterator[MakePipeline]:
    """Makes pipelines, with other settings or a runner around the model's own."""
    made: list[Pipeline] = []

    def make(
        wrap: Callable[[Runner], Runner] | None = None,
        observer: Observer | None = None,
        **settings: object,
    ) -> Pipeline:
        changed = dataclasses.replace(
            model,
            runner=model.runner if wrap is None else wrap(model.runner),
            settings=model.settings.model_copy(update=settings),
        )
        made.append(Pipeline(changed, observer))
        return made[-1]

    yield make
    for each in made:
        if isinstance(each.model.runner, Held):
            each.model.runner.let_go()
        asyncio.run(each.close())


@pytest.fixture(scope="module")
def images(digits: Path) -> list[bytes]:
    """Images that differ, small and quick to decode."""
    return [path.read_bytes() for path in sorted(digits.rglob("*.png"))[:60]]


def expected(model: ServedModel, images: list[bytes]) -> Outputs:
    return model.runner.run(np.stack([model.pixels(image) for image in images]))


def same(found: Outputs, wanted: Outputs) -> bool:
    return np.allclose(found.embeddings, wanted.embeddings, atol=1e-5) and np.allclose(
        found.ood_scores, wanted.ood_scores, rtol=1e-3
    )


def test_answers_come_in_the_order_of_the_images(
    pipeline: MakePipeline, model: ServedModel, images: list[bytes]
) -> None:
    found = asyncio.run(pipeline().answer(images))
    assert found.ood_scores.dtype == found.embeddings.dtype == np.float32
    assert same(found, expected(model, images))


@pytest.mark.parametrize("fixed", [0.0, 0.004], ids=["as it is", "batches pay"])
def test_many_requests_at_once_each_get_their_own_answers(
    pipeline: MakePipeline, model: ServedModel, images: list[bytes], fixed: float
) -> None:
    recorder = Recorder()
    asked = pipeline(
        lambda runner: Wrapped(runner, lambda _: fixed), recorder, cores=4, max_images=12
    )
    wanted = expected(model, images)
    chance = random.Random(0)
    choices = [
        [chance.randrange(len(images)) for _ in range(chance.randint(1, 12))]
        for _ in range(60)
    ]

    async def one(choice: list[int]) -> None:
        await asyncio.sleep(chance.random() / 20)
        found = await asked.answer([images[index] for index in choice])
        rows = Outputs(
            embeddings=wanted.embeddings[choice], ood_scores=wanted.ood_scores[choice]
        )
        assert same(found, rows)

    async def all_of_them() -> None:
        await asyncio.gather(*map(one, choices))

    asyncio.run(all_of_them())
    total = sum(map(len, choices))
    assert sum(recorder.runs) == total
    assert max(recorder.runs) <= asked.plan.batch_limit
    for step in ("queued", "decoded", "batched"):
        assert recorder.steps.count(step) == total
    assert recorder.depths[-1] == 0
    assert max(recorder.depths) <= total


def test_batches_form_where_they_pay_and_only_there(
    pipeline: MakePipeline, images: list[bytes]
) -> None:
    profile = BatchProfile(minimum=1, optimum=2, maximum=4)

    def sizes(seconds: Callable[[int], float]) -> list[int]:
        runner: list[Wrapped] = []

        def wrap(real: Runner) -> Runner:
            runner.append(Wrapped(real, seconds))
            runner[0].profile = profile
            return runner[0]

        asked = pipeline(wrap, cores=1)
        runner[0].sizes.clear()
        asyncio.run(asked.answer(images[:8]))
        return runner[0].sizes

    together = sizes(lambda _: 0.03)
    assert sum(together) == 8 and len(together) < 6 and max(together) <= 4
    assert sizes(lambda images: 0.01 * images**1.5) == [1] * 8


def test_one_request_alone_does_not_wait(
    pipeline: MakePipeline, images: list[bytes]
) -> None:
    class Waits(Observer):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def batched(self, seconds: float) -> None:
            self.seconds.append(seconds)

    waits = Waits()
    asked = pipeline(lambda runner: Wrapped(runner, lambda _: 0.04), waits)
    assert asked.plan.batch_limit > 1
    for image in images[:5]:
        asyncio.run(asked.answer([image]))
    assert sorted(waits.seconds)[2] < 0.03  # where another image would spare 0.04


def test_the_thread_that_rested_last_is_woken_first(
    pipeline: MakePipeline, images: list[bytes]
) -> None:
    class Names(Observer):
        def __init__(self) -> None:
            self.threads: list[str] = []

        def ran(self, images: int, seconds: float) -> None:
            self.threads.append(threading.current_thread().name)

    names = Names()
    asked = pipeline(observer=names, cores=4)
    for image in images[:30]:
        asyncio.run(asked.answer([image]))
        time.sleep(0.01)  # until it rests
    (_, most), *_ = Counter(names.threads).most_common()
    assert most >= 20  # of five threads in turn each would have 6


def test_a_bad_image_is_named_and_costs_no_other_request(
    pipeline: MakePipeline, model: ServedModel, images: list[bytes]
) -> None:
    asked = pipeline(cores=3)

    async def ask() -> list[Outputs | BaseException]:
        return await asyncio.gather(
            *(
                asked.answer([*images[:number], b"nope", images[0], b"", *images[:3]])
                if number % 2
                else asked.answer(images[number:][:3])
                for number in range(30)
            ),
            return_exceptions=True,
        )

    for number, found in enumerate(asyncio.run(ask())):
        if number % 2:
            assert isinstance(found, RefusedImageError)
            assert found.index == number
            assert str(found).startswith(f"images[{number}] is not an image")
        else:
            assert isinstance(found, Outputs)
            assert same(found, expected(model, images[number:][:3]))


def test_a_client_that_goes_takes_its_images_along(
    pipeline: MakePipeline, model: ServedModel, images: list[bytes]
) -> None:
    held = Held(model.runner)
    recorder = Recorder()
    asked = pipeline(lambda _: held, recorder, cores=1)
    held.hold()

    async def ask() -> None:
        first = asyncio.create_task(asked.answer(images[:1]))
        await until(lambda: held.sizes == [1])
        second = asyncio.create_task(asked.answer(images[1:5]))
        await until(lambda: recorder.depths[-1] == 4)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await until(lambda: recorder.depths[-1] == 0)  # one may have been in decoding
        held.let_go()
        assert same(await first, expected(model, images[:1]))

    asyncio.run(ask())
    assert recorder.steps.count("ran") == 1


def test_a_full_queue_refuses_at_once_and_before_decoding(
    pipeline: MakePipeline, model: ServedModel, images: list[bytes]
) -> None:
    held = Held(model.runner)
    recorder = Recorder()
    asked = pipeline(lambda _: held, recorder, cores=1, queue=4)
    held.hold()

    async def ask() -> None:
        tasks = [asyncio.create_task(asked.answer(images[:1]))]
        await until(lambda: held.sizes == [1])
        tasks.append(asyncio.create_task(asked.answer(images[:3])))
        await until(lambda: recorder.depths[-1] == 3)
        with pytest.raises(QueueFullError, match="the queue holds 4") as full:
            await asked.answer(images[:2])
        assert full.value.retry_after > 0
        tasks.append(asyncio.create_task(asked.answer([b"nope"])))  # which fits
        held.let_go()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in found] == [Outputs, Outputs, RefusedImageError]

    asyncio.run(ask())
    assert recorder.steps.count("decoded") == 5


def test_a_request_past_its_deadline_is_dropped(
    pipeline: MakePipeline, model: ServedModel, images: list[bytes]
) -> None:
    held = Held(model.runner)
    recorder = Recorder()
    asked = pipeline(lambda _: held, recorder, cores=1, deadline=0.2)
    held.hold()

    async def ask() -> None:
        found = await asyncio.gather(
            asked.answer(images[:1]), asked.answer(images[:5]), return_exceptions=True
        )
        for each in found:
            assert isinstance(each, DeadlineError)
            assert "within 0.2 s" in str(each)
        assert recorder.depths[-1] == 0
        held.let_go()

    asyncio.run(ask())
    assert len(held.sizes) == 1


def test_a_small_request_does_not_wait_for_a_large_one(
    pipeline: MakePipeline, model: ServedModel, images: list[bytes]
) -> None:
    held = Held(model.runner)
    asked = pipeline(lambda _: held, cores=1)
    held.hold()

    async def ask() -> None:
        large = asyncio.create_task(asked.answer((images * 2)[:64]))
        await until(lambda: held.sizes == [1])
        small = asyncio.create_task(asked.answer(images[:1]))
        await asyncio.sleep(0)
        held.let_go()
        await small
        assert len(held.sizes) < 60
        await large
        assert len(held.sizes) == 65

    asyncio.run(ask())


def test_a_failing_run_costs_the_requests_in_its_batch_alone(
    pipeline: MakePipeline, model: ServedModel, images: list[bytes]
) -> None:
    class Failing(Wrapped):
        armed = False

        def run(self, pixels: Pixels) -> Outputs:
            if self.armed and (pixels == model.pixels(images[7])).all(axis=(1, 2, 3)).any():
                raise RuntimeError("out of memory")
            return super().run(pixels)

    failing = Failing(model.runner, lambda _: 0.004)
    asked = pipeline(lambda _: failing, cores=2)
    failing.armed = True

    async def ask() -> list[Outputs | BaseException]:
        return await asyncio.gather(
            *(asked.answer([image]) for image in images[:20]), return_exceptions=True
        )

    for _ in range(3):
        found = asyncio.run(ask())
        failed = [each for each in found if not isinstance(each, Outputs)]
        assert isinstance(found[7], RunError)
        assert "wrapped failed on a batch of" in str(found[7])
        assert len(failed) <= asked.plan.batch_limit
        assert all(isinstance(each, RunError) for each in failed)
    failing.armed = False
    assert isinstance(asyncio.run(asked.answer([images[7]])), Outputs)


@pytest.mark.parametrize("kind", ["answered", "refused", "failed"])
def test_nothing_of_a_request_stays_once_it_is_over(
    pipeline: MakePipeline,
    images: list[bytes],
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """Idle threads hold no reference, and none waits for the garbage collector."""
    caplog.set_level(logging.CRITICAL, "isogon.serving")  # pytest keeps what is logged

    class Fails(Wrapped):
        def run(self, pixels: Pixels) -> Outputs:
            if self.sizes[-1:] == [0]:
                raise ValueError("no memory")
            return super().run(pixels)

    runner: list[Fails] = []

    def wrap(real: Runner) -> Runner:
        runner.append(Fails(real))
        return runner[0]

    asked = pipeline(wrap, cores=3)
    runner[0].sizes.append(0 if kind == "failed" else 1)
    request = [*images[:4], b"no image"] if kind == "refused" else images[:4]
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            with suppress(RefusedImageError, RunError):
                asyncio.run(asked.answer(request))

        async def left() -> None:
            await until(lambda: not [x for x in gc.get_objects() if type(x) is RequestJob])

        asyncio.run(left())
    finally:
        gc.enable()


def test_a_run_that_answers_too_little_is_a_failure(
    pipeline: MakePipeline, model: ServedModel, images: list[bytes]
) -> None:
    class Short(Wrapped):
        def run(self, pixels: Pixels) -> Outputs:
            found = super().run(pixels)
            return Outputs(embeddings=found.embeddings[1:], ood_scores=found.ood_scores[1:])

    asked = pipeline(Short)
    with pytest.raises(RunError, match="1 images gave 0 answers"):
        asyncio.run(asked.answer(images[:1]))


def test_nan_passes_through(
    pipeline: MakePipeline, model: ServedModel, images: list[bytes]
) -> None:
    class NotANumber(Wrapped):
        def run(self, pixels: Pixels) -> Outputs:
            found = super().run(pixels)
            return Outputs(
                embeddings=found.embeddings * np.float32("nan"),
                ood_scores=found.ood_scores,
            )

    found = asyncio.run(pipeline(NotANumber).answer(images[:3]))
    assert np.isnan(found.embeddings).all() and not np.isnan(found.ood_scores).any()


def test_an_observer_that_fails_costs_no_answer(
    pipeline: MakePipeline, model: ServedModel, images: list[bytes]
) -> None:
    class Broken(Observer):
        def decoded(self, seconds: float) -> None:
            raise RuntimeError("the disk is full")

    asked = pipeline(observer=Broken(), cores=1)
    assert same(asyncio.run(asked.answer(images)), expected(model, images))


def test_a_request_may_be_traced(
    pipeline: MakePipeline, model: ServedModel, images: list[bytes]
) -> None:
    class Steps(Trail):
        def __init__(self) -> None:
            self.images: dict[str, int] = {}
            self.spans: list[tuple[float, float]] = []

        def step(self, name: str, start: float, end: float, images: int) -> None:
            self.images[name] = self.images.get(name, 0) + images
            self.spans.append((start, end))

    class Tracing(Observer):
        def __init__(self) -> None:
            self.trails: list[Steps] = []

        def trail(self) -> Trail:
            self.trails.append(Steps())
            return self.trails[-1]

    tracing = Tracing()
    asked = pipeline(observer=tracing)
    before = time.perf_counter()
    for _ in range(2):
        asyncio.run(asked.answer(images[:5]))
    for steps in tracing.trails:
        assert steps.images == dict.fromkeys(("queue", "decode", "batch", "run"), 5)
        assert all(before < start <= end for start, end in steps.spans)
    assert len(tracing.trails) == 2


def test_closing_finishes_what_was_accepted_and_refuses_the_rest(
    pipeline: MakePipeline, model: ServedModel, images: list[bytes]
) -> None:
    held = Held(model.runner)
    before = set(threading.enumerate())
    asked = pipeline(lambda _: held, cores=2)
    threads = set(threading.enumerate()) - before
    assert len(threads) == 3
    held.hold()

    async def ask() -> None:
        accepted = [asyncio.create_task(asked.answer(images[:9])) for _ in range(3)]
        await until(lambda: len(held.sizes) == 2)
        closing = asyncio.create_task(asked.close())
        await refused()
        assert not closing.done()
        held.let_go()
        for found in await asyncio.gather(*accepted):
            assert same(found, expected(model, images[:9]))
        await closing
        await refused()
        await asked.close()

    async def refused() -> None:
        async with asyncio.timeout(PATIENCE):
            while True:  # until the closing, on a thread of its own, was begun
                try:
                    async with asyncio.timeout(0.05):
                        await asked.answer(images[:1])
                except ClosedError:
                    return
                except TimeoutError:
                    continue

    asyncio.run(ask())
    assert not any(thread.is_alive() for thread in threads)
