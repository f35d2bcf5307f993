"""The measurement at the start, on runners with known costs."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from isogon.runtimes import BatchProfile, Outputs, Pixels, Runner
from isogon.runtimes.device import usable_cores
from serving.batching.measurement import BatchPlan, measured_plan

IMAGE = np.zeros((1, 2, 2, 3), np.uint8)


class Sleeping(Runner):
    """Sleeps `fixed + each * images` seconds."""

    name = "sleeping"

    def __init__(self, fixed: float, each: float) -> None:
        self.sizes: list[int] = []
        self._fixed = fixed
        self._each = each

    def run(self, pixels: Pixels) -> Outputs:
        self.sizes.append(len(pixels))
        time.sleep(self._fixed + self._each * len(pixels))
        zeros = np.zeros((len(pixels), 1), np.float32)
        return Outputs(embeddings=zeros, ood_scores=zeros[:, 0])


def plan(runner: Runner, cores: int = 2, threads: int = 1) -> BatchPlan:
    return measured_plan(runner, IMAGE, cores=cores, threads=threads)


def test_batches_as_large_as_they_pay() -> None:
    assert plan(Sleeping(0.01, 0.0)).batch_limit == 64


def test_no_batches_where_they_cost_more_and_few_sizes_are_tried() -> None:
    class Crowded(Sleeping):
        def run(self, pixels: Pixels) -> Outputs:
            time.sleep(0.001 * len(pixels) ** 1.25)
            return super().run(pixels)

    runner = Crowded(0.0, 0.0)
    assert plan(runner).batch_limit == 1
    assert max(runner.sizes) < 32  # for which there was time


def test_an_engine_gets_no_batch_beyond_its_profile() -> None:
    runner = Sleeping(0.01, 0.0)
    runner.profile = BatchProfile(minimum=1, optimum=4, maximum=12)
    assert plan(runner).batch_limit == 8
    assert max(runner.sizes) == 8


def test_a_slow_model_is_measured_once() -> None:
    runner = Sleeping(0.5, 0.0)
    assert plan(runner) == BatchPlan(
        batch_limit=1, in_flight=2, workers=3, run_ms={1: pytest.approx(500, rel=0.5)}
    )
    assert runner.sizes == [1]


def test_a_size_that_does_not_run_is_not_taken() -> None:
    class Small(Sleeping):
        def run(self, pixels: Pixels) -> Outputs:
            if len(pixels) > 4:
                raise RuntimeError("out of memory")
            return super().run(pixels)

    assert plan(Small(0.01, 0.0)).batch_limit == 4


def test_a_runner_that_runs_nothing_is_an_error() -> None:
    class Broken(Sleeping):
        def run(self, pixels: Pixels) -> Outputs:
            raise RuntimeError("no device")

    with pytest.raises(RuntimeError, match="no device"):
        plan(Broken(0.0, 0.0))


def test_cores_are_shared_between_runs_on_a_cpu() -> None:
    for cores, threads, in_flight in ((4, 1, 4), (4, 2, 2), (2, 8, 1)):
        found = plan(Sleeping(0.0, 0.001), cores, threads)
        assert (found.in_flight, found.workers) == (in_flight, cores + 1)


def test_two_batches_are_in_flight_on_a_device_that_gains_from_it() -> None:
    class OneAtATime(Sleeping):
        lock = threading.Lock()

        def run(self, pixels: Pixels) -> Outputs:
            if not self.lock.acquire(blocking=False):
                self.lock.acquire()
                time.sleep(0.02)  # what it costs to change over
            try:
                return super().run(pixels)
            finally:
                self.lock.release()

    for runner, in_flight in ((Sleeping(0.01, 0.0), 2), (OneAtATime(0.01, 0.0), 1)):
        runner.on_device = True
        runner.profile = BatchProfile(minimum=1, optimum=2, maximum=2)
        found = plan(runner, cores=4)
        assert (found.in_flight, found.workers) == (in_flight, 4 + in_flight)


def test_a_containers_share_of_cores_counts(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    all_of_them = usable_cores(quota)  # there is no such file
    assert all_of_them >= 1
    for text, cores in (
        ("max 100000\n", all_of_them),
        ("100000 100000\n", 1),
        ("20000 100000\n", 1),
        ("150000 100000\n", min(2, all_of_them)),
        ("99900000 100000\n", all_of_them),
    ):
        quota.write_text(text)
        assert usable_cores(quota) == cores
