"""The page of `serving.py`: what was asked for, what was found, and everybody's figures."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from children import Footprint
from contenders import OURS, PLAIN_BENTOML
from detector_cost import DetectorCost
from measuring import BARE, LIMIT, Figures, Rounds
from uploads import Uploads

from isogon.bundle import Manifest

# The titles of the loads, which `serving.py` gives them, and the heads of their columns:
# requests under way x images in each.
SINGLE, BODY, BULK = "photographs", "photographs as bodies", "32 photographs"
ALONE, SMALL, SMALL_BODY = "one at a time", "small ones", "small ones as bodies"
EIGHT, LOADED = "8 photographs", "70 % load"
_HEADS = {
    SINGLE: "16 x 1",
    BODY: "16 x 1, body",
    EIGHT: "16 x 8",
    BULK: "4 x 32",
    ALONE: "1 x 1",
    LOADED: "70 % load",
    SMALL: "16 x 1, small",
    SMALL_BODY: "16 x 1, small body",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was found of one student."""

    manifest: Manifest
    rounds: Rounds
    starts: list[float]  # seconds until `isogon serve` answers
    footprints: dict[str, Footprint]
    failures: dict[str, dict[str, int]]
    costs: list[DetectorCost]


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A figure that was promised, and what came of it; NaN is a miss."""

    what: str
    bound: float
    found: float
    unit: str = ""
    at_most: bool = False

    def row(self) -> str:
        """Return the line of the table."""
        held = self.found <= self.bound if self.at_most else self.found >= self.bound
        return (
            f"| {self.what} | {'≤' if self.at_most else '≥'} {self.bound:g}{self.unit} | "
            f"{self.found:.2f}{self.unit} | {'pass' if held else '**miss**'} |"
        )


def goals(report: Report) -> list[Goal]:
    """Return what the service promises, each with what was found."""
    rounds = report.rounds
    limits = [name for name in rounds.names() if name.startswith(LIMIT)]
    plain = [name for name in rounds.names() if name.startswith(PLAIN_BENTOML)]

    def of(load: str, others: Sequence[str]) -> float:
        """Our throughput divided by the best of the others'."""
        ratios = [rounds.ratio(load, OURS, other, _throughput) for other in others]
        return min(ratios, default=math.nan)

    alone = [rounds.median(ALONE, name, _latency) for name in (OURS, LIMIT)]
    return [
        Goal(what="single images, of the limit", bound=0.85, found=of(BODY, [LIMIT])),
        *(
            Goal(what=f"single images, of {name}", bound=1.5, found=of(SINGLE, [name]))
            for name in plain
        ),
        Goal(
            what="32 images a request, of the limit at its best",
            bound=0.95,
            found=of(BULK, limits),
        ),
        Goal(
            what="one at a time, median above in process",
            bound=2,
            found=alone[0] - alone[1],
            unit=" ms",
            at_most=True,
        ),
        Goal(
            what="70 % load, 99th percentile in medians",
            bound=5,
            found=rounds.median(LOADED, OURS, lambda f: f.p99 / f.median),
            at_most=True,
        ),
        *(
            Goal(
                what=f"score with {cost.vectors:,} x {cost.width}, of the embedding's "
                f"{cost.embedding:.2f} ms, batch {cost.batch} (searched in float32 "
                f"{100 * cost.plain:.2f} %)",
                bound=10,
                found=100 * cost.share,
                unit=" %",
                at_most=True,
            )
            for cost in report.costs
        ),
        Goal(
            what="`isogon serve` ready within",
            bound=3,
            found=statistics.median(report.starts),
            unit=" s",
            at_most=True,
        ),
    ]


def page(
    conditions: str,
    kinds: tuple[Uploads, Uploads],
    reports: Sequence[Report],
    rounds: int,
    seconds: float,
) -> str:
    """Return the whole page in Markdown."""
    return "\n\n".join(
        [
            "# Serving",
            conditions,
            f"{'. '.join(map(_described, kinds))}. Medians of {rounds} interleaved rounds "
            f"of {seconds:g} s. Loads are requests under way x images in each, as "
            f"multipart/form-data or, single ones, as the body.",
            *map(_section, reports),
        ]
    )


def _described(kind: Uploads) -> str:
    sizes = kind.kibibytes()
    return (
        f"{kind.name.capitalize()}: {len(sizes)} JPEGs of {min(sizes):.0f} to "
        f"{max(sizes):.0f} KiB, median {statistics.median(sizes):.0f}"
    )


def _section(report: Report) -> str:
    manifest, rounds = report.manifest, report.rounds
    shape = f"{manifest.preprocessing.height} x {manifest.preprocessing.width} pixels"

    def figure(what: Callable[[Figures], float], digits: int) -> Callable[[str, str], str]:
        return lambda load, name: _shown(rounds.median(load, name, what), digits)

    def share(other: str) -> Callable[[str, str], str]:
        return lambda load, name: _shown(rounds.ratio(load, name, other, _throughput), 2)

    median, p99 = figure(_latency, 1), figure(lambda figures: figures.p99, 1)
    tables = {"Times the throughput of the limit": share(LIMIT)}
    if BARE in rounds.names():
        tables["Times the throughput of the bare session"] = share(BARE)
    tables |= {
        "Images per second": figure(_throughput, 0),
        "Milliseconds of a request, median and 99th percentile": lambda load, name: (
            f"{median(load, name)} {p99(load, name)}".strip()
        ),
        "Milliseconds of CPU time an image": figure(lambda figures: figures.cpu, 2),
        "Load generator, share of a core": figure(lambda figures: figures.generator, 2),
    }
    return "\n\n".join(
        [
            f"## {manifest.student.architecture}, {shape}, width {manifest.width}",
            "| | goal | found | |\n|---|---|---|---|\n"
            + "\n".join(goal.row() for goal in goals(report)),
            *(f"### {title}\n\n{_table(rounds, cell)}" for title, cell in tables.items()),
            f"### Memory\n\n{_memory(report.footprints)}",
            *_remarks(report.failures),
        ]
    )


def _throughput(figures: Figures) -> float:
    return figures.images_per_second


def _latency(figures: Figures) -> float:
    return figures.median


def _shown(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _table(rounds: Rounds, cell: Callable[[str, str], str]) -> str:
    loads = [load for load in _HEADS if load in rounds.loads()]
    lines = [
        f"| | {' | '.join(_HEADS[load] for load in loads)} |",
        f"|---|{'---|' * len(loads)}",
    ]
    for name in rounds.names():
        cells = [cell(load, name) for load in loads]
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _memory(footprints: dict[str, Footprint]) -> str:
    lines = [
        "| | processes | MiB of their own | MiB resident | torch |",
        "|---|---|---|---|---|",
    ]
    for name, found in footprints.items():
        torch = any(library.startswith("libtorch") for library in found.libraries)
        lines.append(
            f"| {name} | {found.processes} | {found.unique:.0f} | {found.resident:.0f} | "
            f"{'loaded' if torch else 'not loaded'} |"
        )
    return "\n".join(lines)


def _remarks(failures: dict[str, dict[str, int]]) -> list[str]:
    """Return the lines of who failed requests; none of these count as answered."""
    lines = [
        f"* {where}: {', '.join(f'{n} x {what}' for what, n in outcomes.items())}"
        for where, outcomes in failures.items()
    ]
    return (
        ["Requests that were not answered with 200:\n\n" + "\n".join(lines)]
        if lines
        else []
    )
