"""The gate: a file is calibrated, stamped, run and judged before it enters a bundle."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from jaxtyping import Int

from export.deployed import DeployedFunction
from export.graph import TorchRunner
from export.onnx import save_model, stamp
from export.parity import ParityImages, batch_sizes, measure
from export.plan import ExportPlan
from isogon.bundle import (
    GOLDEN,
    Metadata,
    StageWriter,
    golden_arrays,
    sha256_of,
    tensors_name,
)
from isogon.images import Preprocessing
from isogon.ood import Calibration
from isogon.parity import Claim, ParityReport, ParityRun, Tolerance
from isogon.progress import Progress
from isogon.runtimes import OnnxRunner, Outputs, Pixels, Precision, Runner

_REFERENCE_BATCH = 32
_GOLDEN_IMAGES = 8
# Of the range of scores; rounding moves them by 1e-6 of it.
_GOLDEN_MARGIN = 1e-3
_WARM_UP = 10  # runs before latency is measured
_RUNS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """The reference's answers about real images, and the bounds of the comparison."""

    reference: str  # the runtime and device that ran it
    expected: Outputs
    images: ParityImages
    sizes: tuple[int, ...]  # batch sizes that the engines' profile allows
    onnx_sizes: tuple[int, ...]  # batch sizes for ONNX files, which take any
    tolerances: Mapping[Precision, Tolerance]
    function: str  # SHA-256 of the function that every artifact must compute
    preprocessing: Preprocessing
    progress: Progress

    @classmethod
    def of(cls, deployed: DeployedFunction, plan: ExportPlan, progress: Progress) -> "Gate":
        """Run the reference on every image."""
        reference = TorchRunner(deployed.graph)
        return cls(
            reference=reference.name,
            expected=reference.run_all(
                deployed.images.pixels,
                _REFERENCE_BATCH,
                partial(progress.track, description="Running the reference"),
            ),
            images=deployed.images,
            sizes=batch_sizes(plan.profile),
            onnx_sizes=batch_sizes(replace(plan.profile, minimum=1)),
            tolerances=plan.tolerances,
            function=deployed.function,
            preprocessing=deployed.preprocessing,
            progress=progress,
        )

    def try_model(
        self, model: onnx.ModelProto, file: Path, artifact: str, precision: Precision
    ) -> ParityRun:
        """Write the model to `file`, with its own calibration inside, and run it."""
        save_model(model, file)
        familiar = self.images.pixels[: self.images.familiar]
        outputs = OnnxRunner(file).run_all(familiar, self.onnx_sizes[0])
        calibration = self.images.calibrate(outputs)
        if calibration is not None:  # without one it fails at the gate
            metadata = Metadata(
                preprocessing=self.preprocessing,
                calibration=calibration,
                function=self.function,
            )
            stamp(file, metadata)
        return self.run(OnnxRunner(file), file, artifact, precision, self.onnx_sizes)

    def run(
        self,
        runner: Runner,
        file: Path,
        artifact: str,
        precision: Precision,
        sizes: tuple[int, ...] | None = None,
    ) -> ParityRun:
        """Run a file on the images; `sizes` None: at every batch size of the profile."""
        tensors = file.with_name(tensors_name(file.name))
        claim = Claim(
            artifact=artifact,
            sha256=sha256_of(file),
            tensors=sha256_of(tensors) if tensors.exists() else None,
            precision=precision,
            reference=self.reference,
            function=self.function,
        )
        return measure(
            self.expected,
            runner,
            self.images,
            self.progress,
            sizes or self.sizes,
            claim=claim,
        )

    def judge(self, run: ParityRun) -> ParityReport:
        """Return the report under the bounds of the run's precision."""
        return run.judge(self.tolerances[run.claim.precision])


def write_golden(
    stage: StageWriter, expected: Outputs, images: ParityImages, calibration: Calibration
) -> None:
    """Add `golden.safetensors`: the images with the lowest and the highest OOD scores."""
    chosen = _chosen(expected, calibration)
    outputs = Outputs(
        embeddings=expected.embeddings[chosen], ood_scores=expected.ood_scores[chosen]
    )
    stage.write_arrays(GOLDEN, golden_arrays(images.pixels[chosen], outputs))


def _chosen(expected: Outputs, calibration: Calibration) -> Int[np.ndarray, " n"]:
    """Choose images whose decision does not change with rounding."""
    scores = expected.ood_scores
    margin = _GOLDEN_MARGIN * (scores.max() - scores.min())
    flagged, spared = (calibration.is_ood(scores + d) for d in (margin, -margin))
    order = np.argsort(scores)
    settled = order[(flagged == spared)[order]]
    half = _GOLDEN_IMAGES // 2
    return np.unique(np.concatenate([settled[:half], settled[-half:]]))


def latency(runner: Runner, pixels: Pixels) -> float:
    """Return the median time, in milliseconds, that `runner` takes for `pixels`."""
    for _ in range(_WARM_UP):
        runner.run(pixels)
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        runner.run(pixels)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)
