r"""Int8 at four stations: converted, repaired, fine-tuned, fine-tuned and repaired.

    GOMP_SPINCOUNT=3000 OMP_NUM_THREADS=1 python benchmarks/int8.py \
        --images photographs.tar > benchmarks/results/int8-cpu.md
    GOMP_SPINCOUNT=3000 OMP_NUM_THREADS=1 python benchmarks/int8.py --weights distilled \
        --images tiny-imagenet.csv --unfamiliar textures.tar --failing
    python benchmarks/int8.py --bundle quickstart.isogon

Without `--bundle` and `--model`: every family of `families.py`, with `--images`. Its
weights are trained ones if a package contains them, otherwise `lively` ones; with
`--weights distilled` each student is distilled for some hundred steps first
(`distilled.py`), from these weights. A bundle has its own images. Each row
is `export.conversion.converted`, which `isogon export --int8` and `--int8 --finetune` call:
without and with fine-tuning. So the exporter decides whether fine-tuned weights are used
and which nodes stay in float32.

`--failing` fine-tunes only what fails after the repair; `--steps 0` fine-tunes nothing.

A row is a JSON file in the folder of runs, and a distilled student is a bundle there. A row
that is complete is not repeated; one that was interrupted keeps its first half, also for
another number of steps. `--again` deletes the chosen rows, but no bundle.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from conditions import conditions
from distilled import STEPS, Distillations
from families import BATCH_SIZES, COMPARED, FAMILIES, WIDTH
from pydantic import BaseModel
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from runners import interleaved
from students import deployed, photographs

from export import FINETUNING_STEPS, ExportPlan
from export.conversion import Converted, converted
from export.deployed import DeployedFunction
from export.gate import Gate
from export.onnx import save_onnx
from isogon.bundle import Bundle
from isogon.images import Preprocessing
from isogon.networks import preprocessing_of
from isogon.parity import ParityReport
from isogon.runtimes import OnnxRunner, Pixels

PLAIN = ("converted", "repaired")
TUNED = ("fine-tuned", "fine-tuned, repaired")
STATIONS = (*PLAIN, *TUNED)
_TIMED = 8  # images in a batch


class StationResult(BaseModel):
    """One int8 file: its report, and the nodes kept in float32."""

    report: ParityReport
    kept: int = 0
    nodes: int = 0  # converted before any was kept; 0: the repair was not needed
    kept_work: float = 0.0  # share of the converted nodes' work that is float32
    speed: float | None = None  # images per second / float32's
    overlap: float | None = None  # @10 with the teacher, if it is known
    reason: str = ""  # of the repair, if it gave up

    @property
    def ok(self) -> bool:
        """Whether it passes the gate."""
        return bool(self.report)


class StudentRow(BaseModel):
    """One student, with the stations done so far."""

    student: str
    weights: str
    pixels: int
    steps: int = 0  # of the fine-tuning
    images: int = 0  # that ranges were observed on and weights trained on
    stations: dict[str, StationResult] = {}
    used: bool = False  # whether the fine-tuned weights were better, so that they are used
    minutes: float = 0.0  # of the fine-tuning alone
    overlap: float | None = None  # of float32, @10 with the teacher, if it is known
    reason: str = ""  # why a station is missing


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A student to measure: its row, still empty, and how to make it."""

    row: StudentRow
    key: str  # name of the row's file
    make: Callable[[Path, Progress], DeployedFunction]
    sizes: tuple[int, ...] | None  # batch sizes; None: the exporter's
    # Of an ONNX file with the teacher, if it is known.
    overlap: Callable[[Path, Preprocessing], float] | None = None


def subjects(options: argparse.Namespace) -> Iterator[Subject]:
    """Yield the chosen bundles, then the chosen families in the order asked for."""
    for path in options.bundle:
        bundle = Bundle.open(path)
        row = StudentRow(
            student=bundle.manifest.student.architecture,
            weights=path.stem,
            pixels=bundle.manifest.preprocessing.height,
        )
        yield Subject(
            row=row,
            key=path.stem,
            make=lambda *_, bundle=bundle: DeployedFunction.of(bundle),
            sizes=None,
        )
    everything = [] if options.bundle else [family[1] for family in FAMILIES]
    distillations = None
    if options.weights == "distilled":
        distillations = Distillations(
            images=options.images,
            unfamiliar=options.unfamiliar,
            steps=options.distilled_for,
            width=WIDTH,
            folder=options.runs,
        )
    for wanted in dict.fromkeys(options.model or everything):
        for _, name, size, checkpoint in FAMILIES:
            if name != wanted:
                continue
            if distillations is None:
                yield _of_family(name, size, checkpoint, options)
            else:
                yield _distilled(name, size, checkpoint, distillations)


def _of_family(
    name: str, size: int, checkpoint: str | None, options: argparse.Namespace
) -> Subject:
    def make(folder: Path, _: Progress) -> DeployedFunction:
        preprocessing = preprocessing_of(name, size, 1.0)
        photos = photographs(options.images, preprocessing, folder, compared=COMPARED)
        return deployed(name, size, checkpoint, photos, width=WIDTH)

    weights = "lively" if checkpoint is None else "trained"
    row = StudentRow(student=name, weights=weights, pixels=size)
    return Subject(row=row, key=f"{name}-{size}-{weights}", make=make, sizes=BATCH_SIZES)


def _distilled(
    name: str, size: int, checkpoint: str | None, distillations: Distillations
) -> Subject:
    def make(_: Path, progress: Progress) -> DeployedFunction:
        return DeployedFunction.of(distillations.bundle(name, size, checkpoint, progress))

    start = "lively" if checkpoint is None else "trained"
    return Subject(
        row=StudentRow(student=name, weights=f"distilled from {start}", pixels=size),
        key=f"{name}-{size}-distilled-from-{start}",
        make=make,
        sizes=BATCH_SIZES,
        overlap=distillations.overlap,
    )


def measured(subject: Subject, options: argparse.Namespace) -> StudentRow:
    """Fill the missing stations of a row; save it after each half."""
    row = subject.row
    path = options.runs / f"{subject.key}.json"
    if options.again:
        path.unlink(missing_ok=True)
    if path.exists():
        row = StudentRow.model_validate_json(path.read_text())
    if options.steps and row.steps != options.steps:
        row.stations = {name: row.stations[name] for name in PLAIN if name in row.stations}
        row.steps = options.steps
    if not missing(row, options):
        return row
    row.reason = ""
    try:
        with tempfile.TemporaryDirectory() as name, shown_progress() as progress:
            _fill(row, subject, path, Path(name), progress, options)
    except Exception as error:  # of torch, ONNX or us: a result too
        row.reason = f"{type(error).__name__}: {error}"
        say(f"{row.student}: {row.reason}")
    save(row, path)
    return row


def missing(row: StudentRow, options: argparse.Namespace) -> tuple[str, ...]:
    """Return the next stations to measure."""
    if not row.stations.keys() >= set(PLAIN):
        return PLAIN
    if row.stations.keys() >= set(TUNED) or not options.steps:
        return ()
    return () if options.failing and row.stations["repaired"].ok else TUNED


def _fill(
    row: StudentRow,
    subject: Subject,
    path: Path,
    folder: Path,
    progress: Progress,
    options: argparse.Namespace,
) -> None:
    function = subject.make(folder, progress)
    plan = ExportPlan(lower=("int8",))
    gate = Gate.of(function, plan, progress)
    if subject.sizes is not None:
        gate = replace(gate, sizes=subject.sizes, onnx_sizes=subject.sizes)
    file = folder / "model.onnx"
    save_onnx(function.graph, function.preprocessing, file)
    float32 = onnx.load(file)
    row.images = len(function.samples())

    def overlap(path: Path) -> float | None:
        if subject.overlap is None:
            return None
        return subject.overlap(path, function.preprocessing)

    def shipped(made: Converted) -> StationResult:
        """Return the result of the file that was written, with its speed."""
        return _repaired(made).model_copy(
            update={
                "speed": speed(made.file, file, function.images.pixels),
                "overlap": overlap(made.file),
            }
        )

    def made(steps: int) -> Converted:
        return converted(
            function,
            float32,
            "int8",
            folder,
            gate=gate,
            plan=replace(plan, finetune=steps),
            progress=progress,
        )

    if missing(row, options) == PLAIN:
        start = time.monotonic()
        plain = made(0)
        if plain.repair is None or not plain.repair.accepted:
            plainly = plain.report
        else:
            spoilt = folder / "converted.onnx"
            run = gate.try_model(plain.repair.unrepaired, spoilt, spoilt.name, "int8")
            plainly = gate.judge(run)
        row.overlap = overlap(file)
        row.stations["converted"] = StationResult(report=plainly)
        row.stations["repaired"] = shipped(plain)
        save(row, path)
        _tell(row, *PLAIN, since=start)
    if missing(row, options) != TUNED:
        return
    start = time.monotonic()
    tuned = made(row.steps)
    assert tuned.finetuning is not None
    row.used = bool(tuned.finetuning)
    row.minutes = tuned.finetuning.seconds / 60
    row.stations["fine-tuned"] = StationResult(report=tuned.finetuning.after)
    row.stations["fine-tuned, repaired"] = shipped(tuned)
    _tell(row, *TUNED, since=start)


def speed(int8: Path, float32: Path, pixels: Pixels) -> float:
    """Return how many times as fast an int8 file is as the float32 file, on one thread."""
    runners = {
        path.name: OnnxRunner(path, threads=1, provider="cpu") for path in (int8, float32)
    }
    batch = pixels[:_TIMED]
    for runner in runners.values():
        runner.run(batch)
    times = interleaved(runners, batch, rounds=5, seconds=0.1)
    return min(times[float32.name]) / min(times[int8.name])


def _repaired(made: Converted) -> StationResult:
    repair = made.repair
    if repair is None:
        return StationResult(report=made.report)
    return StationResult(
        report=made.report,
        kept=len(repair.keep) if repair.accepted else 0,
        nodes=repair.converted,
        kept_work=repair.kept_work if repair.accepted else 0.0,
        reason="" if repair.accepted else repair.reason,
    )


def save(row: StudentRow, path: Path) -> None:
    """Write a row atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pending = path.with_suffix(".pending")
    pending.write_text(row.model_dump_json(indent=1))
    pending.replace(path)


def say(text: str) -> None:
    """Print progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def _tell(row: StudentRow, *stations: str, since: float) -> None:
    told = "; ".join(f"{name}: {entry(row.stations[name])}" for name in stations)
    say(f"{row.student} ({row.weights}), {told} ({time.monotonic() - since:.0f} s)")


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Show bars on stderr if that is a terminal; otherwise only the lines of `say`."""
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        yield progress


def entry(station: StationResult | None) -> str:
    """Return the table's cell for one int8 file."""
    if station is None:
        return "not run"
    seen = station.report.figures
    kept = ""
    if station.kept:
        kept = (
            f", {station.kept} of {station.nodes} kept "
            f"({station.kept_work:.0%} of the work)"
        )
    return (
        f"{'ok' if station.ok else '**fails**'} {seen.min_cosine:.4f} / "
        f"{seen.mean_cosine:.4f} / {seen.neighbour_agreement:.3f}{kept}"
    )


def table(rows: list[StudentRow]) -> str:
    """Return the table, and below it the reason of each failure."""
    lines = [
        f"| student | pixels | {' | '.join(STATIONS)} | minutes | speed | overlap@10 |",
        "|---" * (5 + len(STATIONS)) + "|",
    ]
    reasons = []
    for row in rows:
        cells = " | ".join(entry(row.stations.get(name)) for name in STATIONS)
        minutes = f"{row.minutes:.1f}" if TUNED[0] in row.stations else ""
        unused = ", not used" if minutes and not row.used else ""
        name = f"{row.student}, {row.weights}"
        shipped = shipped_of(row)
        speed = overlap = ""
        if shipped is not None and shipped.speed is not None:
            speed = f"{shipped.speed:.2f}"
        if shipped is not None and shipped.overlap is not None:
            overlap = f"{row.overlap:.3f}, {shipped.overlap:.3f}"
        lines.append(
            f"| {name} | {row.pixels} | {cells} | {minutes}{unused} | {speed} | {overlap} |"
        )
        if row.reason:
            reasons.append(f"* {name}: {' '.join(row.reason.split())[:500]}")
        if shipped is not None and not shipped.ok:
            broken = "; ".join(shipped.report.failures)
            reasons.append(f"* {name}, at the end: {broken}. {shipped.reason}")
    return "\n".join([*lines, "", *reasons])


def shipped_of(row: StudentRow) -> StationResult | None:
    """Return the int8 file to ship: the first of the repaired ones that passes."""
    found = [row.stations[name] for name in (PLAIN[-1], TUNED[-1]) if name in row.stations]
    return next((each for each in found if each.ok), found[-1] if found else None)


def summary(rows: list[StudentRow]) -> str:
    """Return how many pass at each station, and at the last that was measured."""
    counts = (
        f"{name} {sum(name in row.stations and row.stations[name].ok for row in rows)} of "
        f"{sum(name in row.stations for row in rows)} measured"
        for name in STATIONS
    )
    shipped = [found for row in rows if (found := shipped_of(row)) is not None]
    minutes = sum(row.minutes for row in rows)
    return (
        f"Pass: {'; '.join(counts)}. With one of the two repairs, which is what `isogon "
        f"export` writes: {sum(each.ok for each in shipped)} of {len(rows)}. "
        f"Fine-tuning took {minutes:.0f} minutes in all."
    )


def explained(rows: list[StudentRow]) -> str:
    """Return the explanation of the columns."""
    images = sorted({row.images for row in rows if row.images})
    steps = sorted({row.steps for row in rows if row.stations.keys() >= set(TUNED)})
    return (
        f"Each cell: least and mean cosine with eager float32 torch, and the share of the "
        f"10 nearest neighbours that are the same; `ok` if every bound of "
        f"`isogon/parity/tolerance.py` holds (the least cosine must be 0.99). Converted: "
        f"as `isogon export --int8 --no-repair`. Repaired: nodes are kept in float32, with "
        f"at most half of the work (multiply-adds), until it passes; if that is not enough "
        f"the figures are those with none kept. "
        f"Fine-tuned: {', '.join(map(str, steps)) or 'no'} steps on the "
        f"{', '.join(map(str, images))} images on which the ranges were observed; the gate "
        f"has others. Minutes: of fine-tuning; `not used` where the weights before it were "
        f"better and that column is a repair of those. Speed: of the first repaired file "
        f"that passes, in ONNX Runtime on one thread at batch {_TIMED}, as a multiple of "
        f"float32's, the best of five rounds beside other work. Overlap@10 with the "
        f"teacher: of float32, then of that int8 file."
    )


def main() -> None:
    """Measure each and print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    parser.add_argument(
        "--model", nargs="+", default=[], help="of families.py; default: all"
    )
    parser.add_argument("--images", help="for families, as in [data]")
    parser.add_argument("--weights", choices=("lively", "distilled"), default="lively")
    parser.add_argument("--unfamiliar", help="for distilled ones, as in [[unfamiliar]]")
    parser.add_argument("--distilled-for", type=int, default=STEPS, metavar="STEPS")
    parser.add_argument("--steps", type=int, default=FINETUNING_STEPS)
    parser.add_argument("--failing", action="store_true", help="fine-tune only these")
    parser.add_argument("--runs", type=Path, default=Path("runs/int8"))
    parser.add_argument("--again", action="store_true", help="forget what is done")
    options = parser.parse_args()
    unknown = set(options.model) - {name for _, name, _, _ in FAMILIES}
    if unknown:
        parser.error(f"families.py has no {', '.join(sorted(unknown))}")
    if options.weights == "distilled" and (options.bundle or not options.images):
        parser.error("--weights distilled takes --images, and no --bundle")
    heading = conditions("onnxruntime-gpu")
    rows = []
    for subject in subjects(options):
        rows.append(measured(subject, options))
    course = ""
    if options.weights == "distilled":
        course = (
            f" Distilled for {options.distilled_for} steps, see `distilled.py`, on "
            f"{Path(options.images).name}."
        )
    print(
        f"# Int8, before and after fine-tuning\n\n{heading}{course}\n\n"
        f"{explained(rows)}\n\n"
        f"{table(rows)}\n\n{summary(rows)}"
    )


if __name__ == "__main__":
    main()
