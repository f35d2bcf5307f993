"""Measured times: `measured_plan` decides on batches at the start; `Pace` learns later.

The plan has the batch limit, the runs at a time and the number of threads. The pace
predicts the seconds of decodings and runs, and is updated with each one.
"""

import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np

from isogon.runtimes import Pixels, Runner

_SECONDS = 0.4  # for the measurement; a run in progress is not interrupted
_LARGEST = 64  # images in a batch, if the artifact has no profile
_ROUNDS = 5  # over all sizes; the fastest counts: other processes disturbed it least
_WITHIN = 1.1  # times the best time per image, up to which a smaller batch is preferred
_PAYS = 1.1  # two runs at a time on a device must be this many times as fast
_RATE = 0.05  # weight of each observation: about the last twenty count
# One slow run, such as a preempted one, changes the pace no more than this.
_OUTLIER = math.log(2)
_FLOOR = 0.01  # of one image's run; learning multiplies, so no part may be zero


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """The decisions of the measurement, and the times they are based on.

    Args:
        batch_limit: the most images in one run.
        in_flight: the most runs at a time.
        workers: threads that decode images and start runs.
        run_ms: milliseconds of the fastest run, by images in it.
    """

    batch_limit: int
    in_flight: int
    workers: int
    run_ms: dict[int, float]

    @property
    def run_seconds(self) -> dict[int, float]:
        """Seconds of the fastest run, by images in it."""
        return {size: ms / 1000 for size, ms in self.run_ms.items()}


def measured_plan(runner: Runner, image: Pixels, *, cores: int, threads: int) -> BatchPlan:
    """Return the plan for a runner that has already run once.

    The batch limit is the smallest size whose time per image is within 10 % of the
    fastest: larger batches only make images wait. On a CPU it is mostly one.

    On a CPU the runs at a time are the cores divided by the threads of a run. This is not
    measured: runs of one thread share only the memory bandwidth, and a measurement on a
    machine that is busy at the start could wrongly choose one run for good. On a device
    two runs at a time are used if that is faster: one batch is copied while another one
    computes.

    There is one thread more than runs keep busy. It decodes while another one waits for
    a device or for the GIL, which the event loop needs too. On two cores this gave 10 %
    more single images; a second additional thread gave no more.

    Args:
        runner: what is to be measured.
        image: pixels [1, h, w, 3] of the size it takes.
        cores: the cores that it may keep busy.
        threads: of one run on the CPU.
    """
    end = time.perf_counter() + _SECONDS
    largest = _LARGEST if runner.profile is None else runner.profile.maximum
    seconds = _fastest(runner, image, largest, end)
    each = {size: total / size for size, total in seconds.items()}
    best = min(each.values())
    limit = min(size for size, value in each.items() if value <= _WITHIN * best)
    if runner.on_device:
        in_flight = 2 if _two_pay(runner, _batch(image, limit), seconds[limit], end) else 1
        workers = cores + in_flight  # a thread that waits for a device keeps no core busy
    else:
        in_flight = max(1, cores // threads)
        workers = cores + 1
    return BatchPlan(
        batch_limit=limit,
        in_flight=in_flight,
        workers=workers,
        run_ms={size: 1000 * total for size, total in seconds.items()},
    )


def _fastest(runner: Runner, image: Pixels, largest: int, end: float) -> dict[int, float]:
    """Return the seconds of the fastest run by batch size: 1, 2, 4 … as time allows."""
    seconds: dict[int, float] = {}
    size = 1
    while size <= largest and not (size > 4 and _flat(seconds)):
        # A size's first run allocates or compiles and does not count.
        if seconds and time.perf_counter() + 4 * seconds[size // 2] > end:
            break
        batch = _batch(image, size)
        try:
            first = _seconds(runner, batch)
        except Exception:
            if not seconds:
                raise
            break  # this size does not run here, for example for lack of memory
        spare = time.perf_counter() + first < end
        seconds[size] = _seconds(runner, batch) if spare else first
        size *= 2
    for _ in range(_ROUNDS):
        for size, best in seconds.items():
            if time.perf_counter() + best > end:
                return seconds
            seconds[size] = min(best, _seconds(runner, _batch(image, size)))
    return seconds


def _flat(seconds: dict[int, float]) -> bool:
    """Return whether the last two doublings of the batch saved almost no time per image."""
    *_, before, _, last = (total / size for size, total in seconds.items())
    return last > 0.95 * before


def _two_pay(runner: Runner, batch: Pixels, alone: float, end: float) -> bool:
    """Return whether two runs at a time are faster; False without time to measure."""
    if time.perf_counter() + 8 * alone > end:
        return False

    def runs(count: int) -> None:
        for _ in range(count):
            runner.run(batch)

    with ThreadPoolExecutor(2) as pool:
        start = time.perf_counter()
        list(pool.map(runs, (4,)))
        between = time.perf_counter()
        list(pool.map(runs, (2, 2)))
        end = time.perf_counter()
    return between - start > _PAYS * (end - between)


def _batch(image: Pixels, size: int) -> Pixels:
    return np.repeat(image, size, axis=0)


def _seconds(runner: Runner, batch: Pixels) -> float:
    start = time.perf_counter()
    runner.run(batch)
    return time.perf_counter() - start


class Pace:
    """The seconds of a decoding, and of a run: `fixed + each * images`.

    Both parts are positive and are learned in the logarithm. A run that took r times as
    long as predicted multiplies each part by r ** (rate * the part's share of the
    prediction). This is a step of gradient descent on the squared logarithm of r. It does
    not depend on units. If all batches have one size, which tells nothing about the parts,
    the ratio of the parts changes least.
    """

    def __init__(self, *, fixed: float, each: float) -> None:
        least = _FLOOR * max(fixed + each, 1e-6)
        self.fixed = max(fixed, least)
        self.each = max(each, least)
        self.decoding = 0.0

    @classmethod
    def fitted(cls, seconds: Mapping[int, float]) -> Self:
        """Return the pace that best predicts the seconds of runs by batch size.

        By least squares of the relative errors; with one batch size, `fixed` is 0.
        """
        sizes = np.array(list(seconds), dtype=float)
        took = np.array(list(seconds.values()))
        if len(sizes) == 1:
            return cls(fixed=0.0, each=float(took[0] / sizes[0]))
        rows = np.stack([1 / took, sizes / took], axis=1)
        fixed, each = np.linalg.lstsq(rows, np.ones(len(sizes)), rcond=None)[0].tolist()
        return cls(fixed=fixed, each=each)

    def run(self, images: int) -> float:
        """Return the predicted seconds of a run of so many images."""
        return self.fixed + self.each * images

    def learn_run(self, images: int, seconds: float) -> None:
        """Learn from the time of a run."""
        predicted = self.run(images)
        error = math.log(max(seconds, 1e-9) / predicted)
        step = _RATE * max(-_OUTLIER, min(error, _OUTLIER))
        share = self.fixed / predicted
        self.fixed *= math.exp(step * share)
        self.each *= math.exp(step * (1 - share))

    def learn_decoding(self, seconds: float) -> None:
        """Learn from the time of an image's decoding."""
        rate = _RATE if self.decoding else 1.0
        self.decoding += rate * (seconds - self.decoding)
