"""Float16 and int8: convert float32, judge the result, repair it where it fails."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from jaxtyping import Int

from export.deployed import DeployedFunction
from export.divergence import StoredRunner
from export.finetuning import finetuned
from export.gate import Gate, latency
from export.onnx import (
    CoarseBank,
    Target,
    float16_model,
    observe,
    quantised,
    reranked,
    save_model,
)
from export.plan import ExportPlan
from export.repair import Repair, repaired
from isogon.bundle import onnx_name
from isogon.parity import ParityReport, ParityRun
from isogon.progress import Progress
from isogon.runtimes import OnnxRunner, Pixels, Precision

_RANKED_ON = 4  # images, in one batch: those with the least cosine, which decide

_Convert = Callable[..., onnx.ModelProto]  # with `keep`: names of nodes left in float32


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetuning:
    """Int8's parity before and after fine-tuning, before any repair."""

    steps: int
    seconds: float
    before: ParityReport
    after: ParityReport

    def __bool__(self) -> bool:
        """Whether the fine-tuned weights are better; only then are they used."""
        if bool(self.before) != bool(self.after):
            return bool(self.after)
        return self.after.figures.min_cosine > self.before.figures.min_cosine


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """An artifact below float32: its parity report and its repair."""

    file: Path
    model: onnx.ModelProto  # for an engine: the file's graph with the exact search
    run: ParityRun
    report: ParityReport
    repair: Repair | None  # None: not needed, or switched off
    time_cost: float | None  # time for one image after the repair / before
    finetuning: Finetuning | None = None  # None: not asked for


def converted(
    deployed: DeployedFunction,
    float32: onnx.ModelProto,
    precision: Precision,
    folder: Path,
    *,
    gate: Gate,
    plan: ExportPlan,
    progress: Progress,
    target: Target = "onnxruntime",
    coarse: CoarseBank | None = None,
) -> Converted:
    """Write the artifact of a lower precision to `folder` and judge it.

    Args:
        deployed: what is converted.
        float32: its graph.
        precision: the lower precision.
        folder: where the file is written.
        gate: what the artifact has to pass.
        plan: how int8 ranges are chosen, and whether a failure is repaired.
        progress: where to show progress.
        target: what will run the file.
        coarse: the low-bit bank to search first; None: exact search only.

    Raises:
        UsageError: int8, but no images to observe activation ranges on.
    """
    suffix = "" if target == "onnxruntime" else f".{target}"
    trial = Trial(
        gate=gate,
        file=folder / f"model.{precision}{suffix}.onnx",
        artifact=onnx_name(precision),
        precision=precision,
        coarse=coarse,
    )
    convert: _Convert = partial(float16_model, float32)
    finetuning = None
    if precision == "int8":
        samples = deployed.samples()
        observed = observe(float32, samples, method=plan.ranges, progress=progress)
        convert = partial(quantised, float32, observed, target=target)
        if plan.finetune:
            if plan.finetune_on is not None:
                samples = np.concatenate([samples, plan.finetune_on])
            before = trial.accepts(convert())
            start = time.monotonic()
            tuned = finetuned(
                float32,
                observed,
                samples,
                target=target,
                steps=plan.finetune,
                progress=progress,
            )
            seconds = time.monotonic() - start
            better = partial(quantised, tuned, observed, target=target, correct=False)
            finetuning = Finetuning(
                steps=plan.finetune,
                seconds=seconds,
                before=before,
                after=trial.accepts(better()),
            )
            if finetuning:
                convert, float32 = better, tuned
    made = _made(trial, convert, float32, deployed.images.pixels, plan, folder, progress)
    return replace(made, finetuning=finetuning)


def _made(
    trial: "Trial",
    convert: _Convert,
    float32: onnx.ModelProto,
    pixels: Pixels,
    plan: ExportPlan,
    folder: Path,
    progress: Progress,
) -> Converted:
    """Convert, judge, and repair if it does not pass."""
    plain = convert()
    if not plan.repair or trial.accepts(plain):
        return trial.converted(plain)
    repair = repaired(
        lambda keep: convert(keep=keep) if keep else plain,
        trial.accepts,
        float32,
        pixels[trial.hardest(plain, _RANKED_ON)],
        progress=progress,
    )
    if not repair:
        return trial.converted(repair.unrepaired, repair)
    unrepaired = folder / f"unrepaired.{trial.precision}.onnx"
    save_model(trial.shipped(repair.unrepaired), unrepaired)
    found = trial.converted(repair.model)
    before, after = (
        latency(OnnxRunner(file), pixels[:1]) for file in (unrepaired, found.file)
    )
    return replace(found, repair=repair, time_cost=after / before)


class Trial:
    """Runs conversions through the gate, one after the other, and keeps the last run."""

    def __init__(
        self,
        *,
        gate: Gate,
        file: Path,
        artifact: str,
        precision: Precision,
        coarse: CoarseBank | None,
    ) -> None:
        self._gate = gate
        self._file = file
        self._artifact = artifact
        self.precision: Precision = precision
        self._coarse = coarse
        self._last: tuple[onnx.ModelProto, ParityRun] | None = None

    def shipped(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the graph that is written to the file for a conversion."""
        return reranked(model, self._coarse)

    def accepts(self, model: onnx.ModelProto) -> ParityReport:
        """Return the report on a conversion; falsy if it does not pass."""
        return self._gate.judge(self._run(model))

    def hardest(self, model: onnx.ModelProto, count: int) -> Int[np.ndarray, " chosen"]:
        """Return which images a conversion changes most, by the cosine of embeddings.

        Every image has to pass. Often a few fail, because they exceed the range of one
        tensor; a node that harms only these must not be missed.
        """
        run = self._run(model)
        cosines = [
            np.einsum("nd,nd->n", made.embeddings, run.expected.embeddings)
            for made in run.answers.values()
        ]
        worst = np.min(np.nan_to_num(cosines, nan=-np.inf), axis=0)
        return np.argsort(worst, kind="stable")[:count]

    def converted(self, model: onnx.ModelProto, repair: Repair | None = None) -> Converted:
        """Return the artifact of the chosen conversion, with its report."""
        run = self._run(model)
        return Converted(
            file=self._file,
            model=model,
            run=run,
            report=self._gate.judge(run),
            repair=repair,
            time_cost=None,
        )

    def _run(self, model: onnx.ModelProto) -> ParityRun:
        if self._last is None or self._last[0] is not model:
            run = self._gate.try_model(
                self.shipped(model), self._file, self._artifact, self.precision
            )
            if self.precision == "fp16" and self._gate.judge(run):
                run = self._stored(model) or run
            self._last = model, run
        return self._last[1]

    def _stored(self, model: onnx.ModelProto) -> ParityRun | None:
        """Run with every tensor stored as float16; return that run only if it fails.

        ONNX Runtime's CPU kernels pass float32 to each other, so nothing overflows.
        A GPU's kernels pass float16.
        """
        run = self._gate.run(
            StoredRunner(model),
            self._file,
            self._artifact,
            self.precision,
            self._gate.sizes[-1:],
        )
        return None if self._gate.judge(run) else run
