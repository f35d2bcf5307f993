"""Rounds of load on servers and on the in-process limit, interleaved."""

import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from servers import CORES, OURS, Child, Contender, Server
from uploads import Uploads

LIMIT = "in process"
BARE = "bare session"
WARM_UP = 0.1  # of a measurement's seconds, before it starts


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """The requests of a measurement, the same for every server."""

    title: str
    uploads: Uploads
    images: int  # per request
    concurrency: int = 16  # concurrent requests
    plain: bool = False  # the body is the image; only Isogon accepts that

    @property
    def workers(self) -> int:
        """Threads of the in-process limit."""
        return min(self.concurrency, CORES)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadFigures:
    """One measurement."""

    images_per_second: float
    median: float  # milliseconds per request
    p99: float
    cpu: float  # CPU milliseconds per image, all processes of the server
    generator: float = 0.0  # share of a core that the load generator used


@dataclass(kw_only=True, slots=True)
class Field:
    """All that is measured together: servers, the in-process limit, the generator."""

    generator: Child
    limit: Child
    servers: Mapping[str, tuple[Contender, Server]]
    bare: bool = False  # also measure the session without decoding
    failures: dict[str, dict[str, int]] = field(default_factory=dict)

    def rounds(self, loads: list[Load], count: int, seconds: float) -> "Rounds":
        """Measure every load on everything `count` times, each time in another order."""
        found = Rounds()
        for number in range(count):
            for load in loads:
                order = self._ways(load)
                names = random.Random(number).sample(sorted(order), len(order))
                for name in names:
                    found.add(load.title, name, order[name](seconds))
                print(f"round {number + 1}: {load.title}", file=sys.stderr, flush=True)
        return found

    def _ways(self, load: Load) -> dict[str, Callable[[float], LoadFigures]]:
        ways: dict[str, Callable[[float], LoadFigures]] = {}
        for batch in sorted({1, load.images}):
            name = LIMIT if batch == 1 else f"{LIMIT}, batches of {batch}"
            ways[name] = partial(self.in_process, load, batch)
        if self.bare:
            ways[BARE] = partial(self.in_process, load, load.images, decoded=True)
        for name, (contender, _) in self.servers.items():
            if contender.plain or not load.plain:
                ways[name] = partial(self.served, load, name)
        return ways

    def in_process(
        self, load: Load, batch: int, seconds: float, *, decoded: bool = False
    ) -> LoadFigures:
        """Measure the in-process limit, or the session alone."""
        command = {
            "images": str(load.uploads.images),
            "batch": batch,
            "workers": load.workers,
            "threads": 1,
            "decoded": decoded,
        }
        self.limit.ask({**command, "seconds": WARM_UP * seconds})
        before = self.limit.cpu()
        answer = self.limit.ask({**command, "seconds": seconds})
        used = self.limit.cpu() - before
        return _figures(answer, 1, used / (answer["answered"] * batch))

    def served(
        self, load: Load, name: str, seconds: float, *, rate: float | None = None
    ) -> LoadFigures:
        """Measure a server at the load's concurrency, or at `rate` requests per second."""
        contender, server = self.servers[name]
        folder = load.uploads.requests(contender.path, load.images, plain=load.plain)
        command = {"port": server.port, "requests": str(folder)}
        closed = {**command, "concurrency": load.concurrency}
        self.generator.ask({**closed, "seconds": WARM_UP * seconds})
        before = server.cpu()
        answer = self.generator.ask(
            {**(closed if rate is None else {**command, "rate": rate}), "seconds": seconds}
        )
        used = server.cpu() - before
        for outcome, count in answer["failures"].items():
            known = self.failures.setdefault(f"{name}, {load.title}", {})
            known[outcome] = known.get(outcome, 0) + count
        return _figures(
            answer, load.images, used / max(1, answer["answered"] * load.images)
        )


class Rounds:
    """Figures by load and name, one per round."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], list[LoadFigures]] = defaultdict(list)

    def add(self, load: str, name: str, figures: LoadFigures) -> None:
        """Keep a measurement."""
        self._found[load, name].append(figures)

    def loads(self) -> set[str]:
        """Return the titles of the loads."""
        return {load for load, _ in self._found}

    def names(self) -> list[str]:
        """Return the names of what was measured: the limit, then Isogon, then others."""
        names = {name for _, name in self._found}

        def place(name: str) -> int:
            if name == BARE:
                return 0
            return 1 if LIMIT in name else 2 if name.startswith(OURS) else 3

        return sorted(names, key=lambda name: (place(name), name))

    def median(self, load: str, name: str, what: Callable[[LoadFigures], float]) -> float:
        """Return the median over the rounds; NaN without measurements."""
        found = self._found.get((load, name))
        return statistics.median(map(what, found)) if found else float("nan")

    def ratio(
        self, load: str, name: str, other: str, what: Callable[[LoadFigures], float]
    ) -> float:
        """Return the median over rounds of the ratio of two figures in the same round.

        NaN if either was not measured.
        """
        ones, twos = (self._found.get((load, each), []) for each in (name, other))
        if not ones or not twos:
            return float("nan")
        pairs = zip(ones, twos, strict=True)
        ratios = [what(one) / what(two) for one, two in pairs if what(two)]
        return statistics.median(ratios) if ratios else float("nan")


def _figures(answer: Mapping[str, Any], images: int, cpu: float) -> LoadFigures:
    """Return the figures of an answer, with `images` images per request."""
    median, p99 = (answer[each] or float("nan") for each in ("median", "p99"))
    return LoadFigures(
        images_per_second=answer["per_second"] * images,
        median=1000 * median,
        p99=1000 * p99,
        cpu=1000 * cpu,
        generator=answer.get("cpu", 0.0),
    )
