"""Simulate the drift test: false alarms without drift, delays with it.

    python benchmarks/drift.py > results/drift.md

It also draws benchmarks/results/drift.svg. Scores of familiar images are standard normal,
without loss of generality, because the test uses ranks. Each run draws new calibration
images and traffic and feeds the real `serving.observability.drift.DriftTest`. The figures
do not depend on the machine; the seed is fixed.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import isogon  # noqa: F401  # so that `serving` is the stage, not serving.py beside this
from serving.observability.drift import DriftTest

CALIBRATIONS = (100, 270, 1000, 5000)
WINDOWS = (200, 1000)
RUN_LENGTHS = (1e5, 1e6)
LENGTH = 20  # windows of familiar traffic in a run
LATEST = 20  # windows within which drift should be detected

Traffic = Callable[[np.random.Generator, int], np.ndarray]


def shifted(by: float) -> Traffic:
    """Return traffic whose scores are all larger by `by` standard deviations."""
    return lambda random, images: random.normal(by, 1, images)


def mixed(share: float) -> Traffic:
    """Return traffic with a share of unfamiliar images, whose scores exceed all others."""

    def traffic(random: np.random.Generator, images: int) -> np.ndarray:
        unfamiliar = random.random(images) < share
        return random.normal(0, 1, images) + 10 * unfamiliar

    return traffic


DRIFTS: dict[str, Traffic] = {
    "shift of 0.25 sd": shifted(0.25),
    "shift of 0.5 sd": shifted(0.5),
    "shift of 1 sd": shifted(1.0),
    "10 % unfamiliar": mixed(0.1),
    "20 % unfamiliar": mixed(0.2),
    "50 % unfamiliar": mixed(0.5),
    "all unfamiliar": mixed(1.0),
}


def first_alarm(
    test: DriftTest, traffic: Traffic, random: np.random.Generator, windows: int
) -> int | None:
    """Return the number of further images until the alarm, or None."""
    stride = max(1, test.window // 10)
    for look in range(1, 10 * windows + 1):
        test.add(traffic(random, stride))
        if test.alarm:
            return look * stride
    return None


def false_alarms(
    n: int, window: int, run_length: float, runs: int, random: np.random.Generator
) -> float:
    """Return the share of runs of familiar traffic in which the test alarmed."""
    alarmed = 0
    for _ in range(runs):
        calibration = random.normal(size=n)
        test = DriftTest(calibration, window=window, run_length=run_length)
        alarmed += first_alarm(test, shifted(0.0), random, LENGTH) is not None
    return alarmed / runs


def delays(
    n: int, window: int, traffic: Traffic, runs: int, random: np.random.Generator
) -> list[int | None]:
    """Return for each run the images from the drift's start to the alarm."""
    found = []
    for _ in range(runs):
        test = DriftTest(random.normal(size=n), window=window, run_length=1e6)
        test.add(random.normal(size=window))
        found.append(first_alarm(test, traffic, random, LATEST))
    return found


def report(runs: int, random: np.random.Generator) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# Drift: false alarms and delays"
    yield ""
    yield (
        f"`python {' '.join(sys.argv)}`, {runs} runs for each figure, each with its own "
        f"calibration images and traffic; numpy {np.__version__}."
    )
    yield ""
    yield "## Without drift"
    yield ""
    yield (
        f"Share of runs, each {LENGTH} windows of familiar traffic long, with an alarm at "
        f"any look (ten in a window). Promised is at most length / (2 run length)."
    )
    yield ""
    yield (
        "| window | run length | promised | "
        + " | ".join(f"n = {n:,}" for n in CALIBRATIONS)
        + " |"
    )
    yield "|---|---|---|" + "---|" * len(CALIBRATIONS)
    for window in WINDOWS:
        for run_length in RUN_LENGTHS:
            shares = [
                false_alarms(n, window, run_length, runs, random) for n in CALIBRATIONS
            ]
            promised = min(1.0, LENGTH * window / (2 * run_length))
            yield (
                f"| {window:,} | {run_length:,.0f} | {promised:.2%} | "
                + " | ".join(f"{share:.2%}" for share in shares)
                + " |"
            )
    yield ""
    yield "## With drift"
    yield ""
    yield (
        f"Median images from the drift's start to the alarm, at a run length of a million; "
        f"in brackets the share of runs that alarmed within {LATEST} windows, if not all."
    )
    for window in WINDOWS:
        yield ""
        yield (
            f"| window {window:,} | "
            + " | ".join(f"n = {n:,}" for n in CALIBRATIONS)
            + " |"
        )
        yield "|---|" + "---|" * len(CALIBRATIONS)
        for name, traffic in DRIFTS.items():
            cells = [
                _told(delays(n, window, traffic, max(20, runs // 10), random))
                for n in CALIBRATIONS
            ]
            yield f"| {name} | " + " | ".join(cells) + " |"


def _told(found: list[int | None]) -> str:
    seen = [delay for delay in found if delay is not None]
    if not seen:
        return "never"
    share = "" if len(seen) == len(found) else f" ({len(seen) / len(found):.0%})"
    return f"{np.median(seen):,.0f}{share}"


def draw(path: Path, random: np.random.Generator) -> None:
    """Draw one run: familiar traffic, then a growing share of unfamiliar images."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "isogon"
    import matplotlib.pyplot as plt

    shares = np.concatenate([np.zeros(10_000), np.linspace(0, 0.4, 10_000)])
    scores = random.normal(size=len(shares)) + 10 * (random.random(len(shares)) < shares)
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for n, colour in zip((270, 5000), ("#c2410c", "#1d4ed8"), strict=True):
        test = DriftTest(random.normal(size=n), window=1000, run_length=1e6)
        images, distances = [], []
        for start in range(0, len(scores), 100):
            test.add(scores[start : start + 100])
            if test.full:
                images.append(start + 100)
                distances.append(test.distance)
        axes.plot(images, distances, color=colour, label=f"n = {n:,}")
        axes.axhline(test.threshold, color=colour, linestyle="--", linewidth=1)
    axes.fill_between(
        np.arange(len(shares))[::100], shares[::100], color="0.85", label="share unfamiliar"
    )
    axes.set(xlabel="images", ylabel="distance", ylim=(0, 0.45), xlim=(0, len(shares)))
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Print the page and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="runs for each figure")
    parser.add_argument(
        "--svg", type=Path, default=Path("benchmarks/results/drift.svg"), help="the picture"
    )
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    for line in report(arguments.runs, random):
        print(line, flush=True)
    draw(arguments.svg, np.random.default_rng(1))


if __name__ == "__main__":
    main()
