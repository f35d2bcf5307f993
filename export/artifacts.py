"""Export: make an artifact, gate it, and let it into the bundle only if it passes."""

from functools import partial

import numpy as np
from jaxtyping import Int
from rich.progress import Progress

from bundle import (
    GOLDEN,
    ONNX,
    Artifact,
    Bundle,
    Calibration,
    CheckFailedError,
    Claim,
    OnnxRunner,
    Outputs,
    ParityReport,
    Preprocessing,
    StageWriter,
    Tolerance,
    golden_arrays,
    open_runner,
    parity_name,
    parity_run_name,
    require_golden,
    vouched_artifact,
)
from bundle.runners import Pixels
from export.graph import Graph, TorchRunner, graph_from_bundle
from export.onnx import save_onnx
from export.parity import ParityFailedError, ParityImages, measure
from export.parity_page import show_parity

_REFERENCE_BATCH = 32
_GOLDEN_IMAGES = 8
_GOLDEN_MARGIN = 1e-3  # of the range of scores; rounding moves them by 1e-6 of it


def export_onnx(
    bundle: Bundle,
    progress: Progress,
    *,
    tolerance: Tolerance | None = None,
    extra: Pixels | None = None,
) -> ParityReport:
    """Add `onnx/model.onnx` with its parity report, calibration and golden images.

    Args:
        bundle: a distilled bundle.
        progress: where to show progress.
        tolerance: the bounds of the gate.
        extra: more real pixels to compare on, beside the bundle's held-out ones.

    Raises:
        ParityFailedError: a bound is broken; the bundle stays as it was.
    """
    with bundle.stage("export") as stage:
        report = add_onnx(
            stage,
            graph_from_bundle(bundle),
            bundle.manifest.preprocessing,
            ParityImages.of(bundle, extra),
            progress,
            tolerance or Tolerance(),
        )
        show_parity(bundle, stage, [report])
        return report


def add_onnx(
    stage: StageWriter,
    graph: Graph,
    preprocessing: Preprocessing,
    images: ParityImages,
    progress: Progress,
    tolerance: Tolerance,
) -> ParityReport:
    """Write the ONNX artifact of `graph` and what vouches for it; see `export_onnx`."""
    task = progress.add_task("Exporting to ONNX", total=None)
    path = stage.path(ONNX)
    save_onnx(graph, preprocessing, path)
    progress.update(task, total=1, completed=1)
    reference, candidate = TorchRunner(graph), OnnxRunner(path)
    expected = _expected(reference, images, progress)
    claim = _claim(stage.sha256(ONNX), reference)
    run = measure(expected, candidate, images, progress, claim=claim)
    report = run.judge(tolerance)
    if not report:
        raise ParityFailedError(report, "It did not enter the bundle.")
    assert report.calibration is not None  # or the report would be false
    golden = _golden(expected, report.calibration)
    outputs = Outputs(
        embeddings=expected.embeddings[golden], ood_scores=expected.ood_scores[golden]
    )
    stage.write(parity_name(ONNX), report)
    run.save(stage.path(parity_run_name(ONNX)))
    stage.write_arrays(GOLDEN, golden_arrays(images.pixels[golden], outputs))
    return report


def verify(bundle: Bundle, progress: Progress) -> ParityReport:
    """Repeat the golden check and the parity claim of the ONNX artifact, here and now.

    Opening the bundle has verified every hash already.

    Raises:
        UnvouchedArtifactError: nothing vouches for the artifact.
        CheckFailedError: it does not compute what its report claims.
    """
    artifact = vouched_artifact(bundle)
    candidate = open_runner(bundle, artifact)
    require_golden(bundle, artifact, candidate)
    reference = TorchRunner(graph_from_bundle(bundle))
    images = ParityImages.of(bundle)
    expected = _expected(reference, images, progress)
    sizes, claim = artifact.report.batch_sizes, _claim(artifact.fingerprint, reference)
    run = measure(expected, candidate, images, progress, sizes, claim=claim)
    report = run.judge(artifact.report.tolerance)
    if not report:
        raise ParityFailedError(
            report, f"Run `isogon export {bundle.path}` on this machine."
        )
    _require_calibration(artifact, report.calibration, bundle)
    return report


def _require_calibration(
    artifact: Artifact, fresh: Calibration | None, bundle: Bundle
) -> None:
    """Raise `CheckFailedError` unless the stored calibration is what is measured here."""
    stored = artifact.calibration
    if fresh is not None and len(stored.scores) == len(fresh.scores):
        ours, theirs = np.array(stored.scores), np.array(fresh.scores)
        error = np.abs(ours - theirs).max() / (np.ptp(theirs) or 1.0)
        bound = artifact.report.tolerance.max_score_error
        if error <= bound and stored.alpha == fresh.alpha:
            return
    raise CheckFailedError(
        f"{bundle.path}: the calibration of {artifact.name} is not what its own scores "
        f"on the held-out images give. Run `isogon export {bundle.path}` again."
    )


def _expected(reference: TorchRunner, images: ParityImages, progress: Progress) -> Outputs:
    return reference.run_all(
        images.pixels,
        _REFERENCE_BATCH,
        partial(progress.track, description="Running the reference"),
    )


def _claim(sha256: str, reference: TorchRunner) -> Claim:
    return Claim(artifact=ONNX, sha256=sha256, precision="fp32", reference=reference.name)


def _golden(expected: Outputs, calibration: Calibration) -> Int[np.ndarray, " n"]:
    """Choose the most and the least familiar images whose decision no rounding flips."""
    scores = expected.ood_scores
    margin = _GOLDEN_MARGIN * (scores.max() - scores.min())
    flagged, spared = (calibration.is_ood(scores + d) for d in (margin, -margin))
    order = np.argsort(scores)
    settled = order[(flagged == spared)[order]]
    half = _GOLDEN_IMAGES // 2
    return np.unique(np.concatenate([settled[:half], settled[-half:]]))
