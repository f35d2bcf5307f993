"""Artifacts: what may be run, and what vouches for it.

An artifact is named by its file, and by a runtime where another than the usual one runs
it: `onnx/model.int8.onnx@openvino`. Each such pair has a report and a calibration of its
own. An artifact is run only if its hash is in the manifest, a parity report names that
very hash, and the report carries the artifact's own calibration. Before it answers
anyone it must also reproduce the golden images.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isogon.bundle.store import Bundle
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
# Figures of many images, of which the few golden ones say nothing. One decision that a
# lower precision flips among eight would be a share below any bound; scores are bounded.
_OF_MANY = frozenset(
    {"neighbour_agreement", "score_rank_correlation", "decision_agreement"}
)


_AT = "@"  # between a file's name and a runtime's


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A runnable file of a bundle, vouched for in a runtime."""

    name: str
    path: Path
    fingerprint: str  # SHA-256 of the file; its metadata holds the preprocessing
    report: ParityReport
    calibration: Calibration


def onnx_name(precision: Precision) -> str:
    """Return where the ONNX artifact of a precision is kept."""
    return ONNX if precision == "fp32" else f"onnx/model.{precision}.onnx"


def file_of(artifact: str) -> str:
    """Return the name of an artifact's file: it without the runtime."""
    return artifact.partition(_AT)[0]


def runtime_of(artifact: str) -> Runtime:
    """Return the runtime an artifact is run by.

    Raises:
        UsageError: it names one that there is not.
    """
    file, _, name = artifact.partition(_AT)
    return runtime_for(Path(file), name or None)


def in_other_runtimes(file: str) -> tuple[str, ...]:
    """Return the names a file has as an artifact of each runtime but its usual one."""
    return tuple(
        f"{file}{_AT}{runtime.name}"
        for runtime in other_runtimes()
        if file.endswith(runtime.suffix)
    )


def tensors_name(artifact: str) -> str:
    """Return where the weights of an ONNX artifact of more than 2 GB are kept."""
    return f"{artifact}.data"


def artifact_names(bundle: Bundle) -> tuple[str, ...]:
    """Return every artifact of a bundle, float32 first.

    Those are the ONNX files and engines, vouched for or not, and the ONNX files once more
    for each other runtime in which a report vouches for them.
    """
    files = [name for name in bundle.manifest.files if name.endswith((".onnx", ".engine"))]
    elsewhere = [
        name
        for file in files
        for name in in_other_runtimes(file)
        if parity_name(name) in bundle
    ]
    return tuple(sorted([*files, *elsewhere], key=lambda name: (name != ONNX, name)))


def parity_name(artifact: str) -> str:
    """Return where the parity report of an artifact is kept."""
    return f"parity/{Path(artifact).name}.json"


def parity_run_name(artifact: str) -> str:
    """Return where all answers of an artifact's parity run are kept."""
    return f"parity/{Path(artifact).name}.safetensors"


def parity_reports(
    bundle: Bundle, *, leaving_out: Collection[str] = ()
) -> tuple[ParityReport, ...]:
    """Return the reports of all artifacts, by name, save those of the ones left out.

    Raises:
        BundleError: one was written by an earlier version.
    """
    unread = {parity_name(artifact) for artifact in leaving_out}
    return tuple(
        bundle.record(name, ParityReport)
        for name in bundle.manifest.files
        if name.startswith("parity/") and name.endswith(".json") and name not in unread
    )


def vouched_artifact(bundle: Bundle, name: str = ONNX) -> Artifact:
    """Return the artifact, if a report vouches for exactly its bytes (rules 3 to 5).

    Raises:
        UnvouchedArtifactError: no report, one for another hash, one that failed, or
            one without calibration.
        EngineMismatchError: an engine built for another machine.
    """
    if name in bundle and name.endswith(".engine"):
        EngineStamp.from_name(name).require_match(Machine.here())
    if name in bundle and name.endswith(".engine") and parity_name(name) not in bundle:
        raise UnvouchedArtifactError(
            f"{bundle.path}: nothing vouches for {name} yet, it was only built. Run "
            f"`isogon verify --vouch {bundle.path}` on this machine."
        )
    file, _, runtime = name.partition(_AT)
    if file not in bundle or parity_name(name) not in bundle:
        asked = f" --runtime {runtime}" if runtime else ""
        raise UnvouchedArtifactError(
            f"{bundle.path} has no {name} with a parity report. "
            f"Run `isogon export{asked} {bundle.path}` first."
        )
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


def golden_arrays(pixels: np.ndarray, outputs: Outputs) -> dict[str, np.ndarray]:
    """Return what `golden.safetensors` holds: pixels and the reference's answers."""
    return {
        "pixels": pixels,
        "embeddings": outputs.embeddings,
        "ood_scores": outputs.ood_scores,
    }


def require_golden(bundle: Bundle, artifact: Artifact, runner: Runner) -> None:
    """Raise `CheckFailedError` unless `runner` reproduces the golden images (rule 7).

    The bounds are those under which the artifact passed parity.
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


def proven_runner(bundle: Bundle, artifact: Artifact, how: How | None = None) -> Runner:
    """Return the runner for an artifact once it has reproduced the golden images here.

    Args:
        bundle: where the artifact is kept.
        artifact: what to run.
        how: it is run; None: as the runtime chooses.

    Raises:
        CheckFailedError: it does not; see `require_golden`.
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
        how: it is run; None: as the runtime chooses.

    Raises:
        EngineMismatchError: an engine that does not run on this machine.
        UnvouchedArtifactError: the artifact was made for other pixels than the bundle's.
        UsageError: a package is missing, or the device is not to be had here.
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
