"""Export: every artifact asked for is made, gated, and published if it passes."""

import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from rich.progress import Progress

from bundle import (
    ONNX,
    Bundle,
    BundleError,
    ParityReport,
    ParityRun,
    Precision,
    Reduction,
    StageWriter,
    artifact_names,
    parity_name,
    parity_run_name,
    tensors_name,
)
from export.deployed import Deployed
from export.engines import built_engine
from export.gate import Gate
from export.golden import write_golden
from export.lowering import Lowered, lowered
from export.onnx import save_onnx
from export.parity import ParityFailedError
from export.parity_page import show_parity
from export.plan import ExportPlan
from export.reduction import reduce_bank
from export.rejected import Rejected, forget_rejected, reject

_TIMING_CACHE = Path("~/.cache/isogon/tensorrt-timing.cache")


@dataclass(kw_only=True, slots=True)
class Exported:
    """What an export made of its plan. Truthy only if nothing was rejected."""

    reduction: Reduction | None
    withdrawn: tuple[str, ...]  # older artifacts, which computed another function
    reports: list[ParityReport] = field(default_factory=list)  # of what entered
    lowered: list[Lowered] = field(default_factory=list)  # how fp16 and int8 were made
    unvouched: list[str] = field(default_factory=list)  # engines that could not be run
    rejected: list[Rejected] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.reports) and not self.rejected

    def require(self) -> None:
        """Raise `ParityFailedError` if an artifact was rejected."""
        for one in self.rejected:
            raise ParityFailedError(one.report, one.advice)


def export_bundle(
    bundle: Bundle, progress: Progress, plan: ExportPlan | None = None
) -> Exported:
    """Add the artifacts of the plan, each with its parity report and calibration.

    All that pass are published in one moment. Artifacts made before stay as long as
    they compute the same function; others are withdrawn.

    Args:
        bundle: a distilled bundle.
        progress: where to show progress.
        plan: what to make; None: float32 ONNX.

    Raises:
        UsageError: the plan cannot be carried out here, or with this bundle.
        ParityFailedError: float32 does not pass; the bundle stays as it was. What else
            does not pass is in `Exported.rejected`.
    """
    plan = plan or ExportPlan()
    plan.require_possible()
    with bundle.stage("export") as stage:
        deployed = Deployed.of(bundle, plan.extra)
        if plan.bank is not None:
            reduced = reduce_bank(bundle, plan.bank, progress)
            reduced.write(stage)
            deployed = deployed.with_bank(bundle, reduced)
        return add_artifacts(bundle, stage, deployed, plan, progress)


def add_artifacts(
    bundle: Bundle,
    stage: StageWriter,
    deployed: Deployed,
    plan: ExportPlan,
    progress: Progress,
) -> Exported:
    """Write every artifact of `deployed` and what vouches for it; see `export_bundle`."""
    staying = _staying(bundle, deployed.fingerprint)
    exported = Exported(
        reduction=deployed.reduction, withdrawn=_withdraw_others(bundle, stage, staying)
    )
    gate = Gate.of(deployed, plan, progress)
    with _scratch(bundle) as folder:
        shelf = _Shelf(bundle=bundle, exported=exported)
        files: dict[Precision, Path] = {"fp32": folder / "model.onnx"}
        float32 = _float32(deployed, files["fp32"], progress)
        run = gate.try_model(float32, files["fp32"], ONNX, "fp32")
        report = gate.judge(run)
        shelf.put(files["fp32"], run, report)
        exported.require()  # everything else is made from it
        for precision in plan.lower:
            made = lowered(
                deployed,
                float32,
                precision,
                folder,
                gate=gate,
                plan=plan,
                progress=progress,
            )
            exported.lowered.append(made)
            if shelf.put(made.file, made.run, made.report):
                files[precision] = made.file
        for precision in plan.engine_precisions:
            if precision not in files:
                continue  # its ONNX was rejected
            engine = built_engine(
                files[precision],
                precision,
                gate=gate,
                plan=plan,
                timing_cache=_TIMING_CACHE.expanduser(),
                progress=progress,
            )
            if engine.run is None or engine.report is None:
                engine.file.replace(stage.path(engine.artifact))
                exported.unvouched.append(engine.artifact)
            else:
                shelf.put(engine.file, engine.run, engine.report)
        shelf.publish(stage)
    assert report.calibration is not None  # or float32 would have been rejected
    write_golden(stage, gate.expected, deployed.images, report.calibration)
    made = {report.artifact for report in exported.reports}
    exported.withdrawn = tuple(name for name in exported.withdrawn if name not in made)
    show_parity(bundle, stage, exported.reports, exported.withdrawn)
    return exported


class _Shelf:
    """What has passed, kept in the scratch folder until all is made."""

    def __init__(self, *, bundle: Bundle, exported: Exported) -> None:
        self._bundle = bundle
        self._exported = exported
        self._passed: list[tuple[Path, ParityRun, ParityReport]] = []

    def put(self, file: Path, run: ParityRun, report: ParityReport) -> bool:
        """Keep an artifact that passed, reject one that did not; return which it was."""
        if report:
            self._passed.append((file, run, report))
            self._exported.reports.append(report)
        else:
            self._exported.rejected.append(reject(self._bundle, file, run, report))
        return bool(report)

    def publish(self, stage: StageWriter) -> None:
        """Hand every artifact to the stage, with what vouches for it."""
        for file, run, report in self._passed:
            name = report.artifact
            tensors = file.with_name(tensors_name(file.name))
            if tensors.exists():
                tensors.replace(stage.path(tensors_name(name)))
            file.replace(stage.path(name))
            stage.write(parity_name(name), report)
            run.save(stage.path(parity_run_name(name)))
            forget_rejected(self._bundle, name)


def _float32(deployed: Deployed, file: Path, progress: Progress) -> onnx.ModelProto:
    task = progress.add_task("Exporting to ONNX", total=None)
    save_onnx(deployed.graph, deployed.preprocessing, file)
    progress.update(task, total=1, completed=1)
    return onnx.load(file)


def _staying(bundle: Bundle, fingerprint: str) -> dict[str, ParityReport]:
    """Return the reports of the artifacts that compute the same function as before."""
    reports = {}
    for name in artifact_names(bundle):
        with suppress(BundleError):  # no report, or one of an earlier version
            report = bundle.record(parity_name(name), ParityReport)
            if report.function == fingerprint:
                reports[name] = report
    return reports


def _withdraw_others(
    bundle: Bundle, stage: StageWriter, staying: Container[str]
) -> tuple[str, ...]:
    """Take the other artifacts out of the bundle, and say which they were."""
    others = tuple(name for name in artifact_names(bundle) if name not in staying)
    for name in others:
        for file in (name, tensors_name(name), parity_name(name), parity_run_name(name)):
            if file in bundle:
                stage.withdraw(file)
    return others


@contextmanager
def _scratch(bundle: Bundle) -> Iterator[Path]:
    """Yield an empty folder beside the bundle, on the same disk; it is removed after."""
    folder = bundle.path.with_name(f".{bundle.path.name}.exporting")
    shutil.rmtree(folder, ignore_errors=True)  # of an export that was killed
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
