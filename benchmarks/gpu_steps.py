"""The steps of `gpu_check.py`, each guarded, and the page they make."""

import argparse
import platform
import statistics
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from conditions import conditions, machine_name
from on_cuda import EAGER, PROFILE, Makers, cuda_runners, engine_flavours, exact_float32
from precisions import PRECISIONS, onnx_name, write_files
from rich.progress import Progress
from timing import interleaved

from export import ExportPlan
from export.deployed import Deployed
from export.gate import Gate
from isogon.bundle import Bundle
from isogon.parity import ParityReport
from isogon.runtimes import Precision, Runner
from isogon.runtimes.cuda import CudaDevice

PLAN = ExportPlan(profile=PROFILE)
BATCHES = (1, 8, 32)
_QUIET = Progress(disable=True)


class GpuCheck:
    """A bundle's student on one GPU: what ran, how it was judged, what failed."""

    def __init__(self, device: CudaDevice, bundle: Bundle, folder: Path) -> None:
        self.device = device
        self.reports: dict[str, ParityReport] = {}
        self.times: dict[int, dict[str, tuple[float, ...]]] = {}
        self.failures: dict[str, str] = {}
        self.deployed = Deployed.of(bundle)
        self._runners: dict[str, Runner] = {}
        self._folder = folder
        self._gate = Gate.of(self.deployed, PLAN, _QUIET)

    def run(self, makers: Makers, *, rounds: int, seconds: float) -> None:
        """Take every step: files, parity of each runner, throughput of those that ran."""
        for precision in PRECISIONS:
            with self.step(f"ONNX file, {precision}"):
                self._write(precision)
        for name, (precision, make) in makers.items():
            with self.step(f"{name}, parity"):
                self._judge(name, precision, make)
        for batch in BATCHES:
            with self.step(f"throughput at batch {batch}"):
                pixels = self.deployed.images.pixels
                self.times[batch] = interleaved(
                    self._runners,
                    np.resize(pixels, (batch, *pixels.shape[1:])),
                    rounds=rounds,
                    seconds=seconds,
                )

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Let a step fail: its reason is kept, and the next one follows."""
        print(f"{name} …", file=sys.stderr)
        try:
            yield
        except Exception as error:  # of any of four runtimes
            traceback.print_exc(file=sys.stderr)
            self.failures[name] = one_line(error)

    def _write(self, precision: Precision) -> None:
        """Write the files of a precision; ONNX Runtime's answers on the CPU are judged."""
        reports = write_files(
            precision,
            self.deployed,
            self._folder,
            gate=self._gate,
            plan=PLAN,
            progress=_QUIET,
        )
        failed = [f"{n}: {'; '.join(r.failures)}" for n, r in reports.items() if not r]
        if failed:
            raise RuntimeError(" ".join(failed))

    def _judge(self, name: str, precision: Precision, make: Callable[[], Runner]) -> None:
        """Make a runner, compare it with the CPU's float32, and keep it if it runs."""
        runner = make()
        path = self._folder / onnx_name(precision)
        report = self._gate.judge(self._gate.run(runner, path, path.name, precision))
        self._runners[name] = runner
        self.reports[name] = report
        if not report:
            raise RuntimeError("; ".join(report.failures))


def checked(device: CudaDevice, options: argparse.Namespace) -> dict[str, str]:
    """Check this GPU, write the page, and return what failed, by step."""
    exact_float32()
    heading = conditions("onnxruntime-gpu", "tensorrt", "tensorrt-rtx")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bundle = Bundle.open(options.bundle) if options.bundle else small_bundle(work)
        check = GpuCheck(device, bundle, work)
        makers = cuda_runners(check.deployed.graph, work)
        check.run(makers, rounds=options.rounds, seconds=options.seconds)
        with check.step("an engine"):
            if not engine_flavours():
                raise RuntimeError(
                    f"none could be built: TensorRT is not installed, and TensorRT for "
                    f"RTX is not either, or does not build for {device.architecture}"
                )
    page = report(check, heading, bundle.manifest.student.architecture)
    print(page)
    results = Path(__file__).parent / "results"
    path = options.output or results / f"gpu-check-{machine_name()}.md"
    path.write_text(page + "\n", encoding="utf-8")
    return check.failures


def small_bundle(folder: Path) -> Bundle:
    """Distil a bundle from the sample digits, at two epochs: a minute on a GPU."""
    from distill import quickstart_recipe
    from distill.distillation import distill
    from distill.images.samples import sample_images

    digits, photographs = sample_images(folder / "images", _QUIET)
    recipe = quickstart_recipe(digits, photographs, size=64, epochs=2)
    return distill(recipe, folder / "digits.isogon", _QUIET)


def report(check: GpuCheck, heading: str, student: str) -> str:
    """Return the page: parity, throughput, what failed."""
    size = next(iter(check.reports.values())).figures.images if check.reports else 0
    lines = [
        f"# GPU check: {check.device.name}",
        f"\n{heading} Machine {platform.node()}, {check.device.architecture}. Student "
        f"{student}, batch profile {PROFILE}, {size} comparisons each.",
        "\n## Parity with eager float32 torch on the CPU\n",
        "| | verdict | least cosine | neighbours | OOD decisions | candidate |",
        "|---" * 6 + "|",
    ]
    for name, found in check.reports.items():
        seen = found.figures
        lines.append(
            f"| {name} | {'ok' if found else '**fails**'} | {seen.min_cosine:.7f} | "
            f"{seen.neighbour_agreement:.4f} | {seen.decision_agreement:.4f} | "
            f"{found.candidate} |"
        )
    heads = "".join(f" batch {batch} |" for batch in check.times)
    lines += [
        f"\n## Images per second, and the ratio to {EAGER}\n",
        f"| |{heads}",
        "|---" * (1 + len(check.times)) + "|",
    ]
    for name in check.reports:
        entries = (speed(times, name) for times in check.times.values())
        lines.append(f"| {name} | " + " | ".join(entries) + " |")
    verdict = "Everything passed." if not check.failures else "These steps failed:\n"
    lines.append(f"\n{verdict}")
    lines += [f"* {name}: {reason}" for name, reason in check.failures.items()]
    return "\n".join(lines)


def speed(times: dict[str, tuple[float, ...]], name: str) -> str:
    """Return the images per second of the median round, and the median ratio."""
    if name not in times:
        return "-"
    found = f"{1000 / statistics.median(times[name]):.0f}"
    if EAGER not in times:
        return found
    pairs = zip(times[EAGER], times[name], strict=True)
    return f"{found} ({statistics.median(base / own for base, own in pairs):.2f})"


def one_line(error: Exception) -> str:
    """Return what went wrong in one line of a page."""
    text = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {text[:600]}"
