"""Make every artifact of a plan, compare it with the reference, publish what passes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from export.conversion import Converted, converted
from export.deployed import DeployedFunction
from export.engines import built_engine
from export.gate import Gate, write_golden
from export.onnx import CoarseBank, Target, coarse_bank, float32_model, reranked, save_model
from export.parity import ParityFailedError, quantisation_pixels, show_parity
from export.plan import ExportPlan
from export.reduction import reduce_bank
from export.tensorrt.builder import usual_timing_cache
from export.withdrawal import (
    RejectedArtifact,
    files_of,
    forget_rejected,
    is_whole,
    reject,
    withdraw_others,
)
from isogon.bundle import (
    ONNX,
    Bundle,
    Reduction,
    StageWriter,
    in_other_runtimes,
    onnx_name,
    parity_name,
    parity_run_name,
    runtime_of,
    tensors_name,
)
from isogon.errors import BundleError, UsageError
from isogon.ood import Calibration
from isogon.parity import ParityReport, ParityRun
from isogon.progress import Progress
from isogon.runtimes import How, Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedArtifact:
    """An artifact that could not be made, and why. The others are not affected."""

    artifact: str
    error: Exception


@dataclass(kw_only=True, slots=True)
class Exported:
    """What an export made of its plan. Truthy only if every artifact passed."""

    reduction: Reduction | None
    withdrawn: tuple[str, ...] = ()  # older artifacts: another function, or damaged
    damaged: tuple[str, ...] = ()  # the damaged ones among the withdrawn
    reports: list[ParityReport] = field(default_factory=list)  # of artifacts that passed
    converted: list[Converted] = field(default_factory=list)  # how fp16 and int8 were made
    unvouched: list[str] = field(default_factory=list)  # engines that could not run here
    rejected: list[RejectedArtifact] = field(default_factory=list)
    failed: list[FailedArtifact] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.reports) and not self.rejected and not self.failed

    def require(self) -> None:
        """Raise the first failure, if there is one.

        Raises:
            ParityFailedError: an artifact was rejected.
            Exception: an artifact could not be made; this is the reason.
        """
        for one in self.rejected:
            raise ParityFailedError(one.report, one.advice)
        for failed in self.failed:
            raise failed.error


def export_bundle(
    bundle: Bundle, progress: Progress, plan: ExportPlan | None = None
) -> Exported:
    """Add the artifacts of the plan, each with its parity report and calibration.

    All that pass are published in one step. Older artifacts stay if they compute the
    same function; the others are withdrawn.

    Args:
        bundle: a distilled bundle.
        progress: where to show progress.
        plan: what to make; None: float32 ONNX.

    Raises:
        UsageError: the plan cannot be carried out here, or with this bundle.
        ParityFailedError: float32 does not pass; the bundle is unchanged. Other artifacts
            that do not pass are in `Exported.rejected`; those that could not be made are
            in `Exported.failed`.
    """
    plan = plan or ExportPlan()
    plan.require_possible()
    with bundle.stage("export") as stage:
        if "int8" in plan.lower:  # fail before any work, not after
            quantisation_pixels(bundle, plan.extra)
        # The present reduction is replaced, so it is not read: it may be damaged.
        reduced = None if plan.bank is None else reduce_bank(bundle, plan.bank, progress)
        deployed = DeployedFunction.of(bundle, plan.extra, reduced)
        if reduced is not None:
            reduced.write(stage)
        return add_artifacts(bundle, stage, deployed, plan, progress)


def add_artifacts(
    bundle: Bundle,
    stage: StageWriter,
    deployed: DeployedFunction,
    plan: ExportPlan,
    progress: Progress,
) -> Exported:
    """Write every artifact of `deployed` with its parity report; see `export_bundle`."""
    withdrawn = withdraw_others(bundle, stage, deployed.function)
    exported = Exported(
        reduction=deployed.reduction,
        withdrawn=withdrawn,
        damaged=tuple(name for name in withdrawn if not is_whole(bundle, name)),
    )
    gate = Gate.of(deployed, plan, progress)
    with _scratch(bundle) as folder:
        making = _Making(
            bundle=bundle,
            deployed=deployed,
            plan=plan,
            gate=gate,
            folder=folder,
            exported=exported,
            progress=progress,
        )
        calibration = making.float32()
        for precision in plan.lower:
            with making.attempt(onnx_name(precision)):
                making.lower(precision)
        for precision in plan.engine_precisions:
            with making.attempt(f"{precision} engine"):
                making.engine(precision, stage)
        making.judge_in_other_runtimes()
        making.publish(stage)
    write_golden(stage, gate.expected, deployed.images, calibration)
    here = {*(report.artifact for report in exported.reports), *exported.unvouched}
    gone = dict.fromkeys(exported.withdrawn)  # each once, in order
    exported.withdrawn = tuple(name for name in gone if name not in here)
    show_parity(bundle, stage, exported.reports, {*gone, *exported.unvouched})
    return exported


@dataclass(kw_only=True, slots=True)
class _Making:
    """The artifacts of one export, kept in a scratch folder until all are made."""

    bundle: Bundle
    deployed: DeployedFunction
    plan: ExportPlan
    gate: Gate
    folder: Path
    exported: Exported
    progress: Progress
    coarse: CoarseBank | None = None  # the low-bit bank that ONNX files search first
    models: dict[Precision, onnx.ModelProto] = field(default_factory=dict)  # that passed
    passed: list[tuple[Path, ParityRun, ParityReport]] = field(default_factory=list)
    # Parity of the same files in other runtimes.
    also: list[tuple[ParityRun, ParityReport]] = field(default_factory=list)

    def float32(self) -> Calibration:
        """Make the ONNX file that the others come from; return its calibration."""
        file = self.folder / "model.onnx"
        graph, preprocessing = self.deployed.graph, self.deployed.preprocessing
        opset = self.plan.opset
        model = float32_model(graph, preprocessing, self.progress, opset=opset)
        self.coarse = coarse_bank(model)
        run = self.gate.try_model(reranked(model, self.coarse), file, ONNX, "fp32")
        report = self.gate.judge(run)
        if self.coarse is not None and not report:
            self.coarse = None  # it may miss the nearest vector in a small, dense class
            run = self.gate.try_model(model, file, ONNX, "fp32")
            report = self.gate.judge(run)
        self._put(file, run, report)
        self.exported.require()  # every other artifact is made from it
        assert report.calibration is not None  # or it would have been rejected
        self.models["fp32"] = model
        return report.calibration

    @contextmanager
    def attempt(self, artifact: str) -> Iterator[None]:
        """Record an artifact's failure, so that the others are still published."""
        try:
            yield
        except Exception as error:
            self.exported.failed.append(FailedArtifact(artifact=artifact, error=error))

    def lower(self, precision: Precision) -> None:
        """Make the ONNX file of a lower precision."""
        made = self._converted(precision, "onnxruntime")
        self.exported.converted.append(made)
        if self._put(made.file, made.run, made.report):
            self.models[precision] = made.model

    def engine(self, precision: Precision, stage: StageWriter) -> None:
        """Make the engine of a precision from the ONNX file that passed.

        Raises:
            UsageError: its ONNX file did not pass.
        """
        file = self.folder / f"engine.{precision}.onnx"
        passed = precision in self.models
        if precision == "int8":  # TensorRT's quantisation is not ONNX Runtime's
            made = self._converted(precision, "tensorrt")
            file, passed = made.file, bool(made.report)
        elif passed:
            save_model(self.models[precision], file)  # with the exact search
        if not passed:
            raise UsageError(
                f"The {precision} engine was not built: the {precision} ONNX file that it "
                f"comes from did not pass. Make that one pass first."
            )
        engine = built_engine(
            file,
            precision,
            gate=self.gate,
            plan=self.plan,
            timing_cache=usual_timing_cache(),
            progress=self.progress,
        )
        if engine.run is None or engine.report is None:
            for name in files_of(self.bundle, engine.artifact):
                stage.withdraw(name)  # the report of the older engine of that name
            engine.file.replace(stage.path(engine.artifact))
            self.exported.unvouched.append(engine.artifact)
        else:
            self._put(engine.file, engine.run, engine.report)

    def judge_in_other_runtimes(self) -> None:
        """Run and judge the ONNX files that passed in the other requested runtimes too."""
        for file, _, passed in self.passed:
            for artifact in in_other_runtimes(passed.artifact):
                runtime = runtime_of(artifact)
                if runtime.name not in self.plan.runtimes:
                    continue
                with self.attempt(artifact):
                    runner = runtime.open(file, How())
                    sizes = self.gate.onnx_sizes
                    run = self.gate.run(runner, file, artifact, passed.precision, sizes)
                    report = self.gate.judge(run)
                    if not report:
                        raise ParityFailedError(
                            report,
                            f"{passed.artifact} has passed in its usual runtime only.",
                        )
                    self.also.append((run, report))
                    self.exported.reports.append(report)

    def publish(self, stage: StageWriter) -> None:
        """Hand every artifact that passed to the stage, with its parity report and run."""
        for file, run, report in self.passed:
            name = report.artifact
            self._withdraw_in_other_runtimes(stage, report)
            tensors = file.with_name(tensors_name(file.name))
            if tensors.exists():
                tensors.replace(stage.path(tensors_name(name)))
            elif tensors_name(name) in self.bundle:
                stage.withdraw(tensors_name(name))
            file.replace(stage.path(name))
            stage.write(parity_name(name), report)
            run.save(stage.path(parity_run_name(name)))
            forget_rejected(self.bundle, name)
        for run, report in self.also:
            stage.write(parity_name(report.artifact), report)
            run.save(stage.path(parity_run_name(report.artifact)))

    def _withdraw_in_other_runtimes(self, stage: StageWriter, fresh: ParityReport) -> None:
        """Withdraw other runtimes' parity reports unless they are about the new file."""
        for artifact in in_other_runtimes(fresh.artifact):
            if parity_name(artifact) not in self.bundle:
                continue
            try:
                older = self.bundle.record(parity_name(artifact), ParityReport).sha256
            except BundleError:  # of an earlier version
                older = None
            if older != fresh.sha256:
                for name in files_of(self.bundle, artifact):
                    stage.withdraw(name)
                self.exported.withdrawn = (*self.exported.withdrawn, artifact)

    def _converted(self, precision: Precision, target: Target) -> Converted:
        return converted(
            self.deployed,
            self.models["fp32"],
            precision,
            self.folder,
            gate=self.gate,
            plan=self.plan,
            progress=self.progress,
            target=target,
            coarse=self.coarse if target == "onnxruntime" else None,
        )

    def _put(self, file: Path, run: ParityRun, report: ParityReport) -> bool:
        """Keep an artifact that passed, reject one that did not; return if it passed."""
        if report:
            self.passed.append((file, run, report))
            self.exported.reports.append(report)
        else:
            older = report.artifact in self.bundle
            stays = older and report.artifact not in self.exported.withdrawn
            self.exported.rejected.append(
                reject(self.bundle, file, run, report, older=stays)
            )
        return bool(report)


@contextmanager
def _scratch(bundle: Bundle) -> Iterator[Path]:
    """Yield an empty folder, inside the bundle to be on its disk; remove it afterwards."""
    folder = bundle.path / ".exporting"
    shutil.rmtree(folder, ignore_errors=True)  # of an export that was killed
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
