r"""The service beside the limit of its process and beside others: ratios of one run.

    python benchmarks/serving.py --images photographs.tar \
        > benchmarks/results/serving-cpu.md

Two students, made once and kept in `--runs`: EfficientNet-Lite0 at 224 pixels, and a tiny
one, with which nearly all of the time is the service's own. Each is served by

* `isogon serve`, as it is by default, and with a process for each core,
* a plain BentoML service, LitServe, and FastAPI behind uvicorn, as their documentation
  has it (`benchmarks/peers/`): same preprocessing, same session, a real server each,

and driven in a process of its own by threads that decode and run, one for each core: the
limit of what a service can do. The load comes from another process of this machine, over
kept connections; its share of the CPU is in the tables, and is taken from the servers.
Rounds go through everybody, every time in another order; ratios are medians over the
rounds of the ratio within a round. CPU time an image is the steadier figure where the
machine is shared. Requests are multipart/form-data for all; our single images also come
as the body itself.

Latency at 70 % load: requests at random moments (Poisson), 0.7 of what the service
answered at concurrency 16, each timed from its moment.
"""

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from children import Footprint, child
from conditions import conditions
from contenders import OURS, Contender, contenders
from detector_cost import DetectorCost, detector_costs
from measuring import Field, Load
from served_students import STUDENTS, served_bundle
from serving_page import (
    ALONE,
    BODY,
    BULK,
    EIGHT,
    LOADED,
    SINGLE,
    SMALL,
    SMALL_BODY,
    Report,
    page,
)
from uploads import Uploads, write_uploads

from isogon.bundle import Bundle
from isogon.runtimes.cuda import cuda_device

BATCHES = (1, 8)  # of the detector's cost
SHARE = 0.7  # of what the service can answer
STARTS = 3


def loads(photographs: Uploads, small: Uploads, *, gpu: bool) -> list[Load]:
    """Return what is asked of everybody."""
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
) -> Report:
    """Serve one bundle by everybody, and measure."""
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
    return Report(
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
