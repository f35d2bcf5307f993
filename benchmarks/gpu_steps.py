"""The steps of `gpu_check.py`, any of which may fail, and the page of their results.

A GPU may be lent for minutes, so the most important steps come first: all of float32, then
float16, then int8; in each the reference on the GPU, the engines, ONNX Runtime, throughput,
and slow compilation last. The page is rewritten after every step.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from conditions import conditions, machine_name
from rich.progress import Progress
from runners import (
    EAGER,
    PROFILE,
    Makers,
    cuda_runners,
    engine_flavours,
    exact_float32,
    interleaved,
    one_line,
)
from students import PRECISIONS, onnx_name, write_files

from export import ExportPlan
from export.deployed import DeployedFunction
from export.gate import Gate
from isogon.bundle import Bundle
from isogon.parity import ParityReport
from isogon.runtimes import Precision, Runner
from isogon.runtimes.cuda import CudaDevice

Rounds = tuple[float, ...]

PLAN = ExportPlan(profile=PROFILE)
BATCHES = (1, 8, 32)
# Packages that a bare machine lacks, by their names for `pip download --no-deps`.
WHEELS = (
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "onnx",
    "onnxscript",
    "timm",
    "safetensors",
    "pydantic",
    "jaxtyping",
    "filelock",
    "rich",
)
_DEVICE_WORDS = ("CUDA", "NVIDIA")  # in messages about a missing device
_QUIET = Progress(disable=True)


class GpuCheck:
    """A bundle's student on one GPU: reports, times and failures.

    Args:
        device: the GPU; None in a dry run, which takes every step up to the device.
        bundle: with the student.
        folder: where files and engines are written.
        written: called after every step, with this object.
    """

    def __init__(
        self,
        device: CudaDevice | None,
        bundle: Bundle,
        folder: Path,
        written: Callable[["GpuCheck"], None] = lambda check: None,
    ) -> None:
        self.device = device
        self.reports: dict[str, ParityReport] = {}
        # By batch and runner: milliseconds per image, and eager torch's in the same rounds.
        self.times: dict[int, dict[str, tuple[Rounds, Rounds | None]]] = {}
        self.failures: dict[str, str] = {}
        self.reached: list[str] = []  # steps of a dry run that only lacked the device
        self.deployed = DeployedFunction.of(bundle)
        self._runners: dict[str, Runner] = {}
        self._folder = folder
        self._written = written
        self._gate = Gate.of(self.deployed, PLAN, _QUIET)

    def run(self, makers: Makers, *, rounds: int, seconds: float) -> None:
        """Take every step: files, parity of each runner, throughput."""
        for precision in PRECISIONS:
            with self.step(f"ONNX file, {precision}"):
                self._write(precision)
            own = {
                name: make
                for name, (judged_as, make) in makers.items()
                if judged_as == precision
            }
            for name, make in own.items():
                with self.step(f"{name}, parity"):
                    self._judge(name, precision, make)
            for batch in BATCHES:
                with self.step(f"throughput of {precision} at batch {batch}"):
                    self._time(own.keys(), batch, rounds=rounds, seconds=seconds)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record the reason if a step fails, and continue with the next."""
        print(f"{name} …", file=sys.stderr)
        try:
            yield
        except Exception as error:  # of any of four runtimes
            if self.device is None and any(word in str(error) for word in _DEVICE_WORDS):
                self.reached.append(name)
            else:
                traceback.print_exc(file=sys.stderr)
                self.failures[name] = one_line(error, 600)
        self._written(self)

    def _time(
        self, names: Collection[str], batch: int, *, rounds: int, seconds: float
    ) -> None:
        """Time the runners that work, together with eager torch on the GPU."""
        timed = {
            name: runner
            for name, runner in self._runners.items()
            if name in names or name == EAGER
        }
        pixels = self.deployed.images.pixels
        shown = np.resize(pixels, (batch, *pixels.shape[1:]))
        found = interleaved(timed, shown, rounds=rounds, seconds=seconds)
        times = self.times.setdefault(batch, {})
        for name in names:
            if name in found:
                times[name] = (found[name], found.get(EAGER))

    def _write(self, precision: Precision) -> None:
        """Write the files of a precision, judged by ONNX Runtime on the CPU."""
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
        """Make a runner, compare it with float32 on the CPU, and keep it if it runs."""
        runner = make()
        path = self._folder / onnx_name(precision)
        report = self._gate.judge(self._gate.run(runner, path, path.name, precision))
        self._runners[name] = runner
        self.reports[name] = report
        if not report:
            raise RuntimeError("; ".join(report.failures))


def checked(device: CudaDevice | None, options: argparse.Namespace) -> dict[str, str]:
    """Check this GPU, or make a dry run; write the page and return failures by step."""
    exact_float32()
    heading = conditions(*WHEELS)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        kept = work if device is None else Path(__file__).parent / "results"
        path = options.output or kept / f"gpu-check-{machine_name()}.md"
        bundle = Bundle.open(options.bundle) if options.bundle else small_bundle(work)
        student = bundle.manifest.student.architecture

        def written(check: GpuCheck) -> None:
            path.write_text(f"{report(check, heading, student)}\n", encoding="utf-8")

        check = GpuCheck(device, bundle, work, written)
        makers = cuda_runners(check.deployed.graph, work, dry=device is None)
        check.run(makers, rounds=options.rounds, seconds=options.seconds)
        with check.step("an engine"):
            if not engine_flavours(dry=device is None):
                raise RuntimeError(
                    "none could be built: TensorRT is not installed, and TensorRT for "
                    "RTX is not either, or does not build for this GPU"
                )
        print(path.read_text(encoding="utf-8"))
    return check.failures


def small_bundle(folder: Path) -> Bundle:
    """Distil a bundle from the sample digits, for two epochs: a minute on a GPU."""
    from distill import quickstart_recipe
    from distill.distillation import distill
    from distill.images.sample_images import sample_images

    digits, photographs = sample_images(folder / "images", _QUIET)
    recipe = quickstart_recipe(digits, photographs, size=64, epochs=2)
    return distill(recipe, folder / "digits.isogon", _QUIET)


def report(check: GpuCheck, heading: str, student: str) -> str:
    """Return the page: parity, throughput, failures."""
    size = next(iter(check.reports.values())).figures.images if check.reports else 0
    device = check.device or CudaDevice(name="a dry run without one", architecture="none")
    lines = [
        f"# GPU check: {device.name}",
        f"\n{heading} Machine {platform.node()}, {device.architecture}. Student "
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
    if check.reached:
        lines.append("\nOnly the device was missing for these steps:\n")
        lines += [f"* {name}" for name in check.reached]
    passed = "Everything passed." if check.device else "Nothing failed before the device."
    verdict = passed if not check.failures else "These steps failed:\n"
    lines.append(f"\n{verdict}")
    lines += [f"* {name}: {reason}" for name, reason in check.failures.items()]
    return "\n".join(lines)


def speed(times: dict[str, tuple[Rounds, Rounds | None]], name: str) -> str:
    """Return the images per second of the median round, and the median ratio."""
    if name not in times:
        return "-"
    own, eager = times[name]
    found = f"{1000 / statistics.median(own):.0f}"
    if eager is None:
        return found
    pairs = zip(eager, own, strict=True)
    return f"{found} ({statistics.median(base / taken for base, taken in pairs):.2f})"
