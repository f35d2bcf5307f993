"""The artifact that answers: the one that is named, or the fastest on this machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from isogon.bundle.artifact import (
    GOLDEN,
    Artifact,
    artifact_names,
    proven_runner,
    runtime_of,
    vouched_artifact,
)
from isogon.bundle.bundle import Bundle
from isogon.errors import IsogonError, UnvouchedArtifactError
from isogon.runtimes import How, Pixels, Runner

FASTEST = "fastest"  # in the place of an artifact's name
_BATCHES = (1, 8)
_ROUNDS = 5
_SECONDS = 0.05  # the shortest measurement of an artifact, per round and batch size


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """An artifact that reproduced the golden images here, and how long it takes."""

    artifact: Artifact
    runner: Runner
    milliseconds: float  # per image: the mean of batch sizes 1 and 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """What was measured; `str` gives it in one line."""

    timed: tuple[Timed, ...]  # the fastest first; at least one
    passed_over: Mapping[str, str]  # artifact -> why it was not measured

    def __str__(self) -> str:
        return ", ".join(
            f"{one.artifact.name} {one.milliseconds:.2f} ms an image" for one in self.timed
        )


def proven_artifact(
    bundle: Bundle,
    name: str,
    how: How | None = None,
    *,
    report: Callable[[Race], None] | None = None,
) -> tuple[Artifact, Runner]:
    """Return an artifact, and its runner after it has reproduced the golden images here.

    Args:
        bundle: an exported bundle.
        name: of the artifact; "fastest": the fastest here, measured now.
        how: threads and device; see `open_runner`.
        report: is called with the measurements.

    Raises:
        BundleError, CheckFailedError, UsageError: see `vouched_artifact`, `proven_runner`
            and `race`.
    """
    if name != FASTEST:
        artifact = vouched_artifact(bundle, name)
        return artifact, proven_runner(bundle, artifact, how)
    found = race(bundle, how)
    if report is not None:
        report(found)
    return found.timed[0].artifact, found.timed[0].runner


def race(bundle: Bundle, how: How | None = None) -> Race:
    """Time every vouched artifact that runs here, in turn, on the golden images.

    Each round measures all artifacts, so that other load on the machine affects all of
    them; the median round counts. It takes about half a second per artifact.

    Args:
        bundle: an exported bundle.
        how: threads and device; see `open_runner`.

    Raises:
        UnvouchedArtifactError: none runs here.
    """
    runners: dict[str, tuple[Artifact, Runner]] = {}
    passed_over = {}
    for name in artifact_names(bundle):
        if reason := runtime_of(name).absent():
            passed_over[name] = reason
            continue
        try:
            artifact = vouched_artifact(bundle, name)
            runner = proven_runner(bundle, artifact, how)
        except IsogonError as error:
            passed_over[name] = str(error)
            continue
        runners[name] = (artifact, runner)
    if not runners:
        raise UnvouchedArtifactError(
            f"{bundle.path} has no artifact that runs here: "
            f"{' '.join(passed_over.values()) or 'nothing was exported.'} "
            f"Run `isogon export {bundle.path}` on this machine."
        )
    pixels = bundle.arrays(GOLDEN)["pixels"]
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(_ROUNDS):
        for name, (_, runner) in runners.items():
            times = [_per_image(runner, pixels, batch) for batch in _BATCHES]
            seconds[name].append(statistics.fmean(times))
    timed = [
        Timed(
            artifact=artifact,
            runner=runner,
            milliseconds=1000 * statistics.median(seconds[name]),
        )
        for name, (artifact, runner) in runners.items()
    ]
    timed.sort(key=lambda one: one.milliseconds)
    return Race(timed=tuple(timed), passed_over=passed_over)


def _per_image(runner: Runner, pixels: Pixels, batch: int) -> float:
    """Return the seconds an image takes in batches of this size."""
    shown = np.resize(pixels, (batch, *pixels.shape[1:]))
    runner.run(shown)  # allocates, and compiles for this size
    runs, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < _SECONDS:
        runner.run(shown)
        runs += 1
    return passed / (runs * batch)
