"""Artifacts: what may be run, and what vouches for it.

An artifact is run only if its hash is in the manifest, a parity report names that
very hash, and the report carries the artifact's own calibration. Before it answers
anyone it must also reproduce the golden images.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isogon.bundle.store import Bundle
from isogon.errors import CheckFailedError, UnvouchedArtifactError, UsageError
from isogon.ood.calibration import Calibration
from isogon.parity import ParityReport, figures
from isogon.runtimes import Device, OnnxRunner, Outputs, Runner, TensorRTRunner
from isogon.runtimes.precision import Precision
from isogon.runtimes.stamps import EngineStamp, Machine

ONNX = "onnx/model.onnx"
GOLDEN = "golden.safetensors"
_ANY_DEVICE = Device(provider="auto")
# Figures of many images, of which the few golden ones say nothing. One decision that a
# lower precision flips among eight would be a share below any bound; scores are bounded.
_OF_MANY = frozenset(
    {"neighbour_agreement", "score_rank_correlation", "decision_agreement"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A runnable file of a bundle, vouched for."""

    name: str
    path: Path
    fingerprint: str  # SHA-256 of the file; its metadata holds the preprocessing
    report: ParityReport
    calibration: Calibration


def onnx_name(precision: Precision) -> str:
    """Return where the ONNX artifact of a precision is kept."""
    return ONNX if precision == "fp32" else f"onnx/model.{precision}.onnx"


def tensors_name(artifact: str) -> str:
    """Return where the weights of an ONNX artifact of more than 2 GB are kept."""
    return f"{artifact}.data"


def artifact_names(bundle: Bundle) -> tuple[str, ...]:
    """Return every ONNX file and engine of a bundle, vouched for or not, float32 first."""
    found = (name for name in bundle.manifest.files if name.endswith((".onnx", ".engine")))
    return tuple(sorted(found, key=lambda name: (name != ONNX, name)))


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
    if name not in bundle or parity_name(name) not in bundle:
        raise UnvouchedArtifactError(
            f"{bundle.path} has no {name} with a parity report. "
            f"Run `isogon export {bundle.path}` first."
        )
    report = bundle.record(parity_name(name), ParityReport)
    digest = bundle.manifest.files[name].sha256
    tensors = bundle.manifest.files.get(tensors_name(name))
    if report.tensors != (None if tensors is None else tensors.sha256):
        raise UnvouchedArtifactError(
            f"{bundle.path}: {parity_name(name)} vouches for other weights than those in "
            f"{tensors_name(name)}. Run `isogon export {bundle.path}` again."
        )
    if report.sha256 != digest:
        raise UnvouchedArtifactError(
            f"{bundle.path}: {parity_name(name)} vouches for {report.sha256[:12]}…, but "
            f"{name} is {digest[:12]}…. Run `isogon export {bundle.path}` again."
        )
    if not report or report.calibration is None:
        raise UnvouchedArtifactError(
            f"{bundle.path}: {name} did not pass parity: {'; '.join(report.failures)}. "
            f"Run `isogon export {bundle.path}` again."
        )
    return Artifact(
        name=name,
        path=bundle.file(name),
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


def proven_runner(
    bundle: Bundle,
    artifact: Artifact,
    *,
    threads: int | None = None,
    device: Device = _ANY_DEVICE,
    graphs: bool = False,
) -> Runner:
    """Return the runner for an artifact once it has reproduced the golden images here.

    Args:
        bundle: where the artifact is kept.
        artifact: what to run.
        threads: of ONNX Runtime on the CPU; see `OnnxRunner`.
        device: where it runs.
        graphs: replay CUDA graphs; see `TensorRTRunner`.

    Raises:
        CheckFailedError: it does not; see `require_golden`.
        BundleError, UsageError: see `open_runner`.
    """
    runner = open_runner(bundle, artifact, threads=threads, device=device, graphs=graphs)
    require_golden(bundle, artifact, runner)
    return runner


def open_runner(
    bundle: Bundle,
    artifact: Artifact,
    *,
    threads: int | None = None,
    device: Device = _ANY_DEVICE,
    graphs: bool = False,
) -> Runner:
    """Return the runner for an artifact.

    Args:
        bundle: where the artifact is kept.
        artifact: what to run.
        threads: of ONNX Runtime on the CPU; see `OnnxRunner`.
        device: where it runs.
        graphs: replay CUDA graphs; see `TensorRTRunner`.

    Raises:
        EngineMismatchError: an engine that does not run on this machine.
        UnvouchedArtifactError: the artifact was made for other pixels than the bundle's.
        UsageError: a package is missing, or the device is not to be had here.
    """
    runner: OnnxRunner | TensorRTRunner
    if artifact.name.endswith(".engine"):
        _require_first(artifact, device)
        runner = TensorRTRunner(artifact.path, graphs=graphs)
    else:
        runner = OnnxRunner(
            artifact.path,
            threads=threads,
            provider=device.provider,
            number=device.number,
        )
    expected = bundle.manifest.preprocessing.model_dump_json()
    if runner.preprocessing != expected:
        raise UnvouchedArtifactError(
            f"{bundle.path}: {artifact.name} was exported for pixels preprocessed as "
            f"{runner.preprocessing}, but the manifest says {expected}. "
            f"Run `isogon export {bundle.path}` again."
        )
    return runner


def _require_first(artifact: Artifact, device: Device) -> None:
    """Refuse a device on which no TensorRT engine runs.

    Raises:
        UsageError: it is the CPU, or not the first GPU.
    """
    if device.provider == "cpu" or device.number != 0:
        asked = device.provider + (f":{device.number}" if device.number else "")
        raise UsageError(
            f"{artifact.name} is a TensorRT engine and runs on the first GPU, not on "
            f"device {asked}. Choose a GPU with CUDA_VISIBLE_DEVICES, or serve {ONNX}."
        )
