r"""The service compared with its in-process limit and with other servers.

    python benchmarks/serving.py --images photographs.tar \
        > benchmarks/results/serving-cpu.md

Two students, made once and kept in `--runs`: EfficientNet-Lite0 at 224 pixels, and a tiny
one for which nearly all time is the service's own. Each is served by

* `isogon serve`, with its defaults, and with a process per core,
* a plain BentoML service, LitServe, and FastAPI with uvicorn, as their documentation
  recommends (`benchmarks/peers/`): same preprocessing, same session, a real server each.

The in-process limit is a process whose threads, one per core, only decode and run the
model. The load comes from another process of this machine, over kept-alive connections; its
share of the CPU is in the tables and is not available to the servers. Rounds go through
all servers, each time in another order; ratios are medians over rounds of the ratio within
a round. On a shared machine CPU time per image is the steadier figure. Requests are
multipart/form-data for all; for Isogon single images are also sent as the whole body.

Latency at 70 % load: requests at random moments (Poisson), at 0.7 of the rate that the
service answered with 16 concurrent requests, each timed from its moment.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from conditions import conditions
from detector_cost import DetectorCost, detector_costs
from measuring import BARE, LIMIT, Field, Load, LoadFigures, Rounds
from served_students import STUDENTS, served_bundle
from servers import OURS, PLAIN_BENTOML, Contender, Footprint, child, contenders
from uploads import Uploads, write_uploads

from isogon.bundle import Bundle, Manifest
from isogon.runtimes.cuda import cuda_device

BATCHES = (1, 8)  # for the detector's cost
SHARE = 0.7  # of the service's capacity
STARTS = 3
# The titles of the loads, and the heads of their columns: concurrent requests x images in
# each.
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
class StudentReport:
    """The measurements of one student."""

    manifest: Manifest
    rounds: Rounds
    starts: list[float]  # seconds until `isogon serve` answers
    footprints: dict[str, Footprint]
    failures: dict[str, dict[str, int]]
    costs: list[DetectorCost]


def loads(photographs: Uploads, small: Uploads, *, gpu: bool) -> list[Load]:
    """Return the loads, the same for every server."""
    found = [
        Load(title=SINGLE, uploads=photographs, images=1),
        Load(title=BODY, uploads=photographs, images=1, plain=True),
        Load(title=BULK, uploads=photographs, images=32, concurrency=4),
        Load(title=ALONE, uploads=photographs, images=1, concurrency=1),
        Load(title=SMALL, uploads=small, images=1),
        Load(title=SMALL_BODY, uploads=small, images=1, plain=True),
    ]
    if gpu:
        found.append(Load(title=EIGHT, uploads=photographs, images=8))
    return found


def measured(
    path: Path, kinds: tuple[Uploads, Uploads], folder: Path, options: argparse.Namespace
) -> StudentReport:
    """Serve one bundle with every server, and measure."""
    chosen = [each for name, each in contenders().items() if _wanted(name, options)]
    gpu = cuda_device() is not None
    with ExitStack() as stack:
        starts = _starts(chosen[0], path, folder, options.starts)
        servers = {
            each.name: (each, stack.enter_context(each.running(path, folder / "log")))
            for each in chosen
        }
        field = Field(
            generator=stack.enter_context(child("http_load.py")),
            limit=stack.enter_context(child("inprocess.py", str(path))),
            servers=servers,
            bare=gpu,
        )
        asked = loads(*kinds, gpu=gpu)
        rounds = field.rounds(asked, options.rounds, options.seconds)
        body = asked[1]
        capacity = rounds.median(body.title, OURS, lambda f: f.images_per_second)
        for _ in range(options.rounds):
            rate, seconds = max(1.0, SHARE * capacity), 3 * options.seconds
            figures = field.served(body, OURS, seconds, rate=rate)
            rounds.add(LOADED, OURS, figures)
        footprints: dict[str, Footprint] = {
            name: server.footprint() for name, (_, server) in servers.items()
        }
    costs: list[DetectorCost] = []
    if options.bank:
        costs = detector_costs(
            path,
            folder,
            vectors=options.bank,
            batches=BATCHES,
            rounds=options.rounds,
            seconds=options.seconds / 4,
        )
    return StudentReport(
        manifest=Bundle.open(path).manifest,
        rounds=rounds,
        starts=starts,
        footprints=footprints,
        failures=field.failures,
        costs=costs,
    )


def _wanted(name: str, options: argparse.Namespace) -> bool:
    return name == OURS or name in options.peers


def _starts(ours: Contender, path: Path, folder: Path, count: int) -> list[float]:
    """Return the seconds from the start of the command to its first answer, by start."""
    found = []
    for _ in range(count):
        with ours.running(path, folder / "log") as server:
            found.append(server.ready)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceGoal:
    """A goal of the service and the figure found; NaN misses it."""

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


def goals(report: StudentReport) -> list[ServiceGoal]:
    """Return the service's goals with the figures found."""
    rounds = report.rounds
    limits = [name for name in rounds.names() if name.startswith(LIMIT)]
    plain = [name for name in rounds.names() if name.startswith(PLAIN_BENTOML)]

    def of(load: str, others: Sequence[str]) -> float:
        """Isogon's throughput divided by the best of the others'."""
        ratios = [rounds.ratio(load, OURS, other, _throughput) for other in others]
        return min(ratios, default=math.nan)

    alone = [rounds.median(ALONE, name, _latency) for name in (OURS, LIMIT)]
    return [
        ServiceGoal(
            what="single images, of the limit", bound=0.85, found=of(BODY, [LIMIT])
        ),
        *(
            ServiceGoal(
                what=f"single images, of {name}", bound=1.5, found=of(SINGLE, [name])
            )
            for name in plain
        ),
        ServiceGoal(
            what="32 images a request, of the limit at its best",
            bound=0.95,
            found=of(BULK, limits),
        ),
        ServiceGoal(
            what="one at a time, median above in process",
            bound=2,
            found=alone[0] - alone[1],
            unit=" ms",
            at_most=True,
        ),
        ServiceGoal(
            what="70 % load, 99th percentile in medians",
            bound=5,
            found=rounds.median(LOADED, OURS, lambda f: f.p99 / f.median),
            at_most=True,
        ),
        *(
            ServiceGoal(
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
        ServiceGoal(
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
    reports: Sequence[StudentReport],
    rounds: int,
    seconds: float,
) -> str:
    """Return the whole page in Markdown."""
    return "\n\n".join(
        [
            "# Serving",
            conditions,
            f"{'. '.join(map(_described, kinds))}. Medians of {rounds} interleaved rounds "
            f"of {seconds:g} s. Loads are concurrent requests x images in each, as "
            f"multipart/form-data or, for single images, as the body.",
            *map(_section, reports),
        ]
    )


def _described(kind: Uploads) -> str:
    sizes = kind.kibibytes()
    return (
        f"{kind.name.capitalize()}: {len(sizes)} JPEGs of {min(sizes):.0f} to "
        f"{max(sizes):.0f} KiB, median {statistics.median(sizes):.0f}"
    )


def _section(report: StudentReport) -> str:
    manifest, rounds = report.manifest, report.rounds
    shape = f"{manifest.preprocessing.height} x {manifest.preprocessing.width} pixels"

    def figure(
        what: Callable[[LoadFigures], float], digits: int
    ) -> Callable[[str, str], str]:
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


def _throughput(figures: LoadFigures) -> float:
    return figures.images_per_second


def _latency(figures: LoadFigures) -> float:
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
    """Return lines on failed requests, by server; they do not count as answered."""
    lines = [
        f"* {where}: {', '.join(f'{n} x {what}' for what, n in outcomes.items())}"
        for where, outcomes in failures.items()
    ]
    return (
        ["Requests that were not answered with 200:\n\n" + "\n".join(lines)]
        if lines
        else []
    )


def main() -> None:
    """Measure every student and print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="JPEGs: tar or folder")
    parser.add_argument("--runs", type=Path, default=Path("runs/serving"))
    parser.add_argument("--bundle", type=Path, action="append", help="instead of ours")
    parser.add_argument("--student", action="append", choices=STUDENTS)
    parser.add_argument(
        "--peers", nargs="*", choices=contenders(), default=list(contenders())
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a measurement")
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--bank", type=int, default=50_000, help="vectors; 0: no bank")
    options = parser.parse_args()
    where = conditions("onnxruntime-gpu", "bentoml", "litserve", "fastapi", "uvicorn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = write_uploads(options.images, folder)
        paths = options.bundle or [
            served_bundle(student, kinds[0].images, options.runs.resolve())
            for student in options.student or STUDENTS
        ]
        reports = []
        for path in paths:
            print(f"{path.name}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
            reports.append(measured(path.resolve(), kinds, folder, options))
        print(page(where, kinds, reports, options.rounds, options.seconds))


if __name__ == "__main__":
    main()
