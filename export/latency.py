"""How long one image takes, by whichever runner."""

import statistics
import time

from isogon.runtimes import Pixels, Runner

_WARM_UP = 10
_RUNS = 100


def latency(runner: Runner, pixels: Pixels) -> float:
    """Return the median time, in milliseconds, that `runner` takes for `pixels`."""
    for _ in range(_WARM_UP):
        runner.run(pixels)
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        runner.run(pixels)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)
