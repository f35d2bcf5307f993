"""The model a worker runs: vouched for, and proven on the machine that runs it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from isogon.bulk.job import Job, isogon_version
from isogon.bundle import Artifact, Bundle, proven_runner, vouched_artifact
from isogon.errors import UsageError
from isogon.runtimes import Runner


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """An artifact of a bundle that has reproduced the golden images here."""

    bundle: Bundle
    artifact: Artifact
    runner: Runner

    @classmethod
    def open(cls, path: Path, artifact: str) -> Self:
        """Open a bundle, check everything, and return the model ready to run.

        On the CPU the model has one thread: workers share the cores.

        Raises:
            BundleError: the bundle is damaged, or nothing vouches for its artifact.
            CheckFailedError: the golden images do not come out as they should.
        """
        bundle = Bundle.open(path)
        vouched = vouched_artifact(bundle, artifact)
        runner = proven_runner(bundle, vouched, threads=1)
        return cls(bundle=bundle, artifact=vouched, runner=runner)

    @classmethod
    def for_job(cls, job: Job) -> Self:
        """Open the model that a job was begun with.

        Raises:
            UsageError: this machine has another bundle there, or another Isogon.
            BundleError, CheckFailedError: see `open`.
        """
        here = isogon_version()
        if here != job.version:
            raise UsageError(
                f"The run was begun with Isogon {job.version}, but a worker has {here}. "
                f"Install the same version on every machine."
            )
        model = cls.open(job.bundle, job.artifact)
        found = model.artifact.fingerprint
        if found != job.fingerprint:
            raise UsageError(
                f"The run was begun with {job.artifact} {job.fingerprint[:12]}…, but a "
                f"worker finds {found[:12]}… at {job.bundle}. Let every machine see the "
                f"same bundle under that path, and do not change it meanwhile."
            )
        return model
