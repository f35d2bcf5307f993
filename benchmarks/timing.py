"""The time of runners beside one another, as rounds that alternate."""

import math
import random
import time
from collections.abc import Mapping

from isogon.runtimes import Pixels, Runner

PAUSE = 0.02  # seconds in which the threads of the runner before go to sleep


def interleaved(
    runners: Mapping[str, Runner], pixels: Pixels, *, rounds: int, seconds: float
) -> dict[str, tuple[float, ...]]:
    """Return the milliseconds per image of each runner in each round.

    A round goes through all runners, every time in another order, so that what else the
    machine does falls on all of them. Runners return what is on the host: no device is
    left working behind the clock.

    Args:
        runners: by name; each has run these pixels before.
        pixels: one batch.
        rounds: how many.
        seconds: for which each runs in a round, at least.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds):
        for name in random.Random(number).sample(sorted(runners), len(runners)):
            taken = timed(runners[name], pixels, seconds)
            times[name].append(1000 * taken / len(pixels))
    return {name: tuple(values) for name, values in times.items()}


def timed(runner: Runner, pixels: Pixels, least: float) -> float:
    """Return the seconds of one batch: of as many as `least` seconds hold, after one."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    runner.run(pixels)
    first = time.perf_counter() - start
    runs = max(1, math.ceil(least / first))
    start = time.perf_counter()
    for _ in range(runs):
        runner.run(pixels)
    return (time.perf_counter() - start) / runs
