"""Verify: repeat every parity claim of a bundle on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from export.deployed import DeployedFunction
from export.engines import vouch_for_engines
from export.gate import Gate
from export.parity import ParityFailedError
from export.plan import ExportPlan
from isogon.bundle import (
    Artifact,
    Bundle,
    artifact_names,
    proven_runner,
    runtime_of,
    vouched_artifact,
)
from isogon.errors import (
    CheckFailedError,
    EngineMismatchError,
    IsogonError,
    UnvouchedArtifactError,
)
from isogon.ood import Calibration
from isogon.parity import TOLERANCES, ParityReport, Tolerance
from isogon.progress import Progress
from isogon.runtimes import Pixels, Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What was measured again, what was wrong, and what cannot run here.

    Truthy only if at least one artifact ran and every one that ran passed.
    """

    reports: tuple[ParityReport, ...]  # of artifacts that passed
    faults: tuple[IsogonError, ...]  # of artifacts that did not
    skipped: Mapping[str, str]  # artifact -> reason

    def __bool__(self) -> bool:
        return bool(self.reports) and not self.faults

    def require(self) -> None:
        """Raise unless at least one artifact ran and every one that ran passed.

        Raises:
            BundleError: an artifact has no parity report.
            CheckFailedError: an artifact does not compute what its report claims, or
                nothing could run.
        """
        if self.faults:
            first, *others = self.faults
            for other in others:
                first.add_note(str(other))
            raise first
        if not self.reports:
            raise CheckFailedError(
                f"Nothing could be verified on this machine: "
                f"{' '.join(self.skipped.values())}"
            )


def verify(
    bundle: Bundle,
    progress: Progress,
    *,
    vouch: bool = False,
    tolerances: Mapping[Precision, Tolerance] = TOLERANCES,
    extra: Pixels | None = None,
) -> Verified:
    """Repeat the golden check and the parity comparison of every artifact.

    Opening the bundle has already verified every hash. Engines for another machine and
    runtimes that are not installed are skipped; `Verified.skipped` names them.

    Args:
        bundle: an exported bundle.
        progress: where to show progress.
        vouch: also judge engines that were only built; those that pass get a report.
        tolerances: the bounds for those engines; every other artifact is judged by the
            bounds in its report.
        extra: more pixels to compare on, besides the bundle's held-out ones.

    Raises:
        UnvouchedArtifactError: the bundle has no artifact.
        ParityFailedError: an engine that was only built does not pass.
    """
    if vouch:
        vouch_for_engines(bundle, progress, ExportPlan(tolerances=tolerances, extra=extra))
    names = artifact_names(bundle)
    if not names:
        raise UnvouchedArtifactError(
            f"{bundle.path} has no artifact to verify. Run `isogon export {bundle.path}`."
        )
    gate = Gate.of(DeployedFunction.of(bundle, extra), ExportPlan(), progress)
    reports: list[ParityReport] = []
    faults: list[IsogonError] = []
    skipped: dict[str, str] = {}
    for name in names:
        if reason := runtime_of(name).absent():
            skipped[name] = reason
            continue
        try:
            reports.append(_repeated(bundle, vouched_artifact(bundle, name), gate))
        except EngineMismatchError as error:
            skipped[name] = str(error)
        except IsogonError as error:
            faults.append(error)
    return Verified(reports=tuple(reports), faults=tuple(faults), skipped=skipped)


def _repeated(bundle: Bundle, artifact: Artifact, gate: Gate) -> ParityReport:
    """Return the new report on an artifact, or raise if it does not pass."""
    claimed = artifact.report
    runner = proven_runner(bundle, artifact)
    run = gate.run(
        runner, artifact.path, artifact.name, claimed.precision, claimed.batch_sizes
    )
    report = run.judge(claimed.tolerance)
    if not report:
        raise ParityFailedError(
            report, f"Run `isogon export {bundle.path}` on this machine."
        )
    _require_calibration(artifact, report.calibration, bundle)
    return report


def _require_calibration(
    artifact: Artifact, fresh: Calibration | None, bundle: Bundle
) -> None:
    """Raise `CheckFailedError` unless the stored calibration equals the measured one."""
    stored = artifact.calibration
    if fresh is not None and len(stored.scores) == len(fresh.scores):
        ours, theirs = np.array(stored.scores), np.array(fresh.scores)
        error = np.abs(ours - theirs).max() / (np.ptp(theirs) or 1.0)
        bound = artifact.report.tolerance.max_score_error
        if error <= bound and stored.alpha == fresh.alpha:
            return
    raise CheckFailedError(
        f"{bundle.path}: the calibration of {artifact.name} does not match its own scores "
        f"on the held-out images. Run `isogon export {bundle.path}` again."
    )
