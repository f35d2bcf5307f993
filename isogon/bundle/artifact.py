"""Artifacts: the files that may run, and the parity report that vouches for each.

An artifact's name is its file, with `@` and a runtime if that is not the default one:
`onnx/model.int8.onnx@openvino`. Each such pair has its own parity report and calibration.
An artifact may run only if its hash is in the manifest, its parity report is for this
hash, and the report contains the artifact's own calibration. Before it answers requests,
it must also reproduce the golden images.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isogon.bundle.bundle import Bundle
from isogon.errors import CheckFailedError, UnvouchedArtifactError
from isogon.ood.calibration import Calibration
from isogon.parity import ParityReport, figures
from isogon.runtimes import (
    How,
    Outputs,
    Runner,
    Runtime,
    other_runtimes,
    runtime_for,
)
from isogon.runtimes.runner import Precision
from isogon.runtimes.stamps import EngineStamp, Machine

ONNX = "onnx/model.onnx"
GOLDEN = "golden.safetensors"
_AT = "@"  # between a file's name and a runtime's

# Figures that need many images, so the golden check leaves them out: one flipped decision
# among eight images would break any bound. The scores themselves are checked.
_OF_MANY = frozenset(
    {"neighbour_agreement", "score_rank_correlation", "decision_agreement"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A file of a bundle that may run in a runtime, with the report that vouches for it."""

    name: str
    path: Path
    fingerprint: str  # SHA-256 of the file; its metadata holds the preprocessing
    report: ParityReport
    calibration: Calibration


def _no_such_artifact(
    bundle: Bundle, name: str, file: str, runtime: str
) -> UnvouchedArtifactError:
    """Return the error for an artifact without a report: what there is, how to make it."""
    told = f"{bundle.path} has no {name} with a parity report."
    vouched = [one for one in artifact_names(bundle) if parity_name(one) in bundle]
    if vouched:
        told += f" It has {', '.join(vouched)}."
    made_by = {ONNX: "", onnx_name("fp16"): " --fp16", onnx_name("int8"): " --int8"}
    if file in made_by or not vouched:
        asked = made_by.get(file, "") + (f" --runtime {runtime}" if runtime else "")
        told += f" Run `isogon export{asked} {bundle.path}` first."
    return UnvouchedArtifactError(told)


def artifact_names(bundle: Bundle) -> tuple[str, ...]:
    """Return every artifact of a bundle, float32 first.

    These are all ONNX files and engines, with or without a parity report. An ONNX file has
    a further name for each other runtime in which it has a parity report.
    """
    files = [name for name in bundle.manifest.files if name.endswith((".onnx", ".engine"))]
    elsewhere = [
        name
        for file in files
        for name in in_other_runtimes(file)
        if parity_name(name) in bundle
    ]
    return tuple(sorted([*files, *elsewhere], key=lambda name: (name != ONNX, name)))


def vouched_artifact(bundle: Bundle, name: str = ONNX) -> Artifact:
    """Return the artifact if it has a parity report for its bytes (rules 3 to 5).

    Raises:
        UnvouchedArtifactError: there is no report, or it is for another hash, failed, or
            has no calibration.
        EngineMismatchError: an engine built for another machine.
    """
    if name in bundle and name.endswith(".engine"):
        EngineStamp.from_name(name).require_match(Machine.here())
    if name in bundle and name.endswith(".engine") and parity_name(name) not in bundle:
        raise UnvouchedArtifactError(
            f"{bundle.path}: {name} was built, but its parity is not checked yet. Run "
            f"`isogon verify --vouch {bundle.path}` on this machine."
        )
    file, _, runtime = name.partition(_AT)
    if file not in bundle or parity_name(name) not in bundle:
        raise _no_such_artifact(bundle, name, file, runtime)
    report = bundle.record(parity_name(name), ParityReport)
    digest = bundle.manifest.files[file].sha256
    tensors = bundle.manifest.files.get(tensors_name(file))
    if report.tensors != (None if tensors is None else tensors.sha256):
        raise UnvouchedArtifactError(
            f"{bundle.path}: {parity_name(name)} vouches for other weights than those in "
            f"{tensors_name(file)}. Run `isogon export {bundle.path}` again."
        )
    if report.sha256 != digest:
        raise UnvouchedArtifactError(
            f"{bundle.path}: {parity_name(name)} vouches for {report.sha256[:12]}…, but "
            f"{file} is {digest[:12]}…. Run `isogon export {bundle.path}` again."
        )
    if not report or report.calibration is None:
        raise UnvouchedArtifactError(
            f"{bundle.path}: {name} did not pass parity: {'; '.join(report.failures)}. "
            f"Run `isogon export {bundle.path}` again."
        )
    return Artifact(
        name=name,
        path=bundle.file(file),
        fingerprint=digest,
        report=report,
        calibration=report.calibration,
    )


def proven_runner(bundle: Bundle, artifact: Artifact, how: How | None = None) -> Runner:
    """Return the runner for an artifact after it has reproduced the golden images here.

    Args:
        bundle: where the artifact is kept.
        artifact: what to run.
        how: threads and device; None: the runtime's defaults.

    Raises:
        CheckFailedError: it does not reproduce them; see `require_golden`.
        BundleError, UsageError: see `open_runner`.
    """
    runner = open_runner(bundle, artifact, how)
    require_golden(bundle, artifact, runner)
    return runner


def open_runner(bundle: Bundle, artifact: Artifact, how: How | None = None) -> Runner:
    """Return the runner for an artifact.

    Args:
        bundle: where the artifact is kept.
        artifact: what to run.
        how: threads and device; None: the runtime's defaults.

    Raises:
        EngineMismatchError: an engine that does not run on this machine.
        UnvouchedArtifactError: the artifact has another preprocessing than the bundle.
        UsageError: a package is missing, or the device is not available here.
    """
    runner = runtime_of(artifact.name).open(artifact.path, how or How())
    expected = bundle.manifest.preprocessing.model_dump_json()
    if runner.preprocessing != expected:
        raise UnvouchedArtifactError(
            f"{bundle.path}: {artifact.name} was exported for pixels preprocessed as "
            f"{runner.preprocessing}, but the manifest says {expected}. "
            f"Run `isogon export {bundle.path}` again."
        )
    return runner


def require_golden(bundle: Bundle, artifact: Artifact, runner: Runner) -> None:
    """Raise `CheckFailedError` unless `runner` reproduces the golden images (rule 7).

    The bounds are those of the artifact's parity report.
    """
    arrays = bundle.arrays(GOLDEN)
    reference = Outputs(embeddings=arrays["embeddings"], ood_scores=arrays["ood_scores"])
    candidate = runner.run(arrays["pixels"])
    seen = figures(
        reference,
        candidate,
        reference_is_ood=artifact.calibration.is_ood(reference.ood_scores),
        candidate_is_ood=artifact.calibration.is_ood(candidate.ood_scores),
    )
    checks = seen.checks(artifact.report.tolerance)
    found = [str(check) for check in checks if not check and check.name not in _OF_MANY]
    if found or not seen.images:
        raise CheckFailedError(
            f"{bundle.path}: {artifact.name} on {runner.name} does not reproduce the "
            f"golden images: {'; '.join(found)}. It is not served; run "
            f"`isogon export {bundle.path}` on this machine."
        )


def golden_arrays(pixels: np.ndarray, outputs: Outputs) -> dict[str, np.ndarray]:
    """Return the content of `golden.safetensors`: pixels and the reference's outputs."""
    return {
        "pixels": pixels,
        "embeddings": outputs.embeddings,
        "ood_scores": outputs.ood_scores,
    }


def runtime_of(artifact: str) -> Runtime:
    """Return the runtime of an artifact.

    Raises:
        UsageError: it names an unknown runtime.
    """
    file, _, name = artifact.partition(_AT)
    return runtime_for(Path(file), name or None)


def file_of(artifact: str) -> str:
    """Return the name of an artifact's file: the name without the runtime."""
    return artifact.partition(_AT)[0]


def in_other_runtimes(file: str) -> tuple[str, ...]:
    """Return a file's artifact names in every runtime but its default one."""
    return tuple(
        f"{file}{_AT}{runtime.name}"
        for runtime in other_runtimes()
        if file.endswith(runtime.suffix)
    )


def onnx_name(precision: Precision) -> str:
    """Return the name of the ONNX file of a precision."""
    return ONNX if precision == "fp32" else f"onnx/model.{precision}.onnx"


def tensors_name(artifact: str) -> str:
    """Return the file with the weights of an ONNX artifact of more than 2 GB."""
    return f"{artifact}.data"


def parity_name(artifact: str) -> str:
    """Return the file of an artifact's parity report."""
    return f"parity/{Path(artifact).name}.json"


def parity_run_name(artifact: str) -> str:
    """Return the file with all outputs of an artifact's parity run."""
    return f"parity/{Path(artifact).name}.safetensors"


def parity_reports(
    bundle: Bundle, *, leaving_out: Collection[str] = ()
) -> tuple[ParityReport, ...]:
    """Return the parity reports of all artifacts in order of name, without those left out.

    Raises:
        BundleError: a report is of an earlier version.
    """
    unread = {parity_name(artifact) for artifact in leaving_out}
    return tuple(
        bundle.record(name, ParityReport)
        for name in bundle.manifest.files
        if name.startswith("parity/") and name.endswith(".json") and name not in unread
    )
