"""Verify: every parity claim of a bundle again, on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from export.deployed import Deployed
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
    """What was measured again, what was wrong, and what this machine cannot tell.

    Truthy only if an artifact could be run and every one that could be holds.
    """

    reports: tuple[ParityReport, ...]  # of the artifacts that hold
    faults: tuple[IsogonError, ...]  # of those that do not
    skipped: Mapping[str, str]  # artifact -> why

    def __bool__(self) -> bool:
        return bool(self.reports) and not self.faults

    def require(self) -> None:
        """Raise unless every artifact that could be run holds, and at least one could.

        Raises:
            BundleError: nothing vouches for an artifact.
            CheckFailedError: an artifact does not compute what its report claims, or
                nothing could be run.
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
    """Repeat the golden check and the parity claim of every artifact, here and now.

    Opening the bundle has verified every hash already. Engines that were built for
    another machine, and runtimes that are not installed, are skipped, and named.

    Args:
        bundle: an exported bundle.
        progress: where to show progress.
        vouch: let engines in that were only built, if they pass here.
        tolerances: the bounds for those; every other artifact has to keep those that
            it was let in under.
        extra: real pixels to compare on, beside the bundle's held-out ones.

    Raises:
        UnvouchedArtifactError: the bundle has no artifact.
        ParityFailedError: an engine to be let in does not pass.
    """
    if vouch:
        vouch_for_engines(bundle, progress, ExportPlan(tolerances=tolerances, extra=extra))
    names = artifact_names(bundle)
    if not names:
        raise UnvouchedArtifactError(
            f"{bundle.path} has no artifact to verify. Run `isogon export {bundle.path}`."
        )
    gate = Gate.of(Deployed.of(bundle, extra), ExportPlan(), progress)
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
    """Return what is measured of an artifact now, if it holds."""
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
