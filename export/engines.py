"""TensorRT engines of the ONNX artifacts: built, run and judged where there is a GPU."""

from dataclasses import dataclass
from pathlib import Path

from export.deployed import DeployedFunction
from export.gate import Gate
from export.parity import ParityFailedError, batch_sizes, show_parity
from export.plan import ExportPlan
from export.tensorrt.builder import build_engine
from isogon.bundle import Bundle, artifact_names, parity_name, parity_run_name
from isogon.errors import IsogonError
from isogon.parity import ParityReport, ParityRun
from isogon.progress import Progress
from isogon.runtimes import EngineStamp, Machine, Precision, TensorRTRunner, cuda_device


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltEngine:
    """An engine's file, and its parity report if it could run here."""

    artifact: str
    file: Path
    run: ParityRun | None
    report: ParityReport | None


def built_engine(
    onnx_file: Path,
    precision: Precision,
    *,
    gate: Gate,
    plan: ExportPlan,
    timing_cache: Path | None,
    progress: Progress,
) -> BuiltEngine:
    """Build the engine of the plan's flavour beside an ONNX file, run it and judge it.

    Raises:
        UsageError: the engine cannot be built on this machine.
        EngineMismatchError: it can be built, but not for this machine's GPU.
    """
    options = plan.engine_options(precision)
    stamp = options.stamp()
    if not plan.build_only:
        stamp.require_match(Machine.here())
    content = build_engine(
        onnx_file,
        options,
        profile=plan.profile,
        progress=progress,
        timing_cache=timing_cache,
    )
    file = onnx_file.with_name(Path(stamp.name).name)
    file.write_bytes(content)
    if cuda_device() is None or plan.build_only:
        return BuiltEngine(artifact=stamp.name, file=file, run=None, report=None)
    run = gate.run(TensorRTRunner(file), file, stamp.name, precision)
    return BuiltEngine(artifact=stamp.name, file=file, run=run, report=gate.judge(run))


def vouch_for_engines(bundle: Bundle, progress: Progress, plan: ExportPlan) -> None:
    """Run the engines that were only built; those that pass here get their report.

    The plan gives the bounds and the images in addition to the bundle's own.

    Raises:
        IsogonError: an engine does not load or does not pass. It stays without a report;
            the others get theirs.
    """
    machine = Machine.here()
    waiting = [
        EngineStamp.from_name(name)
        for name in artifact_names(bundle)
        if name.endswith(".engine") and parity_name(name) not in bundle
    ]
    runnable = [stamp for stamp in waiting if stamp.matches(machine)]
    if not runnable:
        return
    gate = Gate.of(DeployedFunction.of(bundle, plan.extra), plan, progress)
    with bundle.stage("export") as stage:
        reports: list[ParityReport] = []
        faults: list[IsogonError] = []
        for stamp in runnable:
            file = bundle.file(stamp.name)
            try:
                runner = TensorRTRunner(file)
                sizes = batch_sizes(runner.profile)
                run = gate.run(runner, file, stamp.name, stamp.precision, sizes)
            except IsogonError as error:
                faults.append(error)
                continue
            report = gate.judge(run)
            if not report:
                faults.append(ParityFailedError(report, "It stays unused."))
                continue
            stage.write(parity_name(stamp.name), report)
            run.save(stage.path(parity_run_name(stamp.name)))
            reports.append(report)
        show_parity(bundle, stage, reports)
    for fault in faults:
        raise fault
