"""The model a worker runs: vouched for, and proven on the machine that runs it."""

from pathlib import Path

from isogon.bulk.job import Job, isogon_version
from isogon.bundle import Manifest
from isogon.errors import UsageError
from isogon.model import Model


def opened_model(path: Path, artifact: str) -> Model:
    """Return a bundle's model, ready to run; workers share the CPU's cores: one thread.

    Raises:
        UsageError: there is no bundle.
        BundleError: the bundle is damaged, or nothing vouches for its artifact.
        CheckFailedError: the golden images do not come out as they should.
    """
    model = Model.open(path, artifact=artifact, threads=1)
    if model.manifest is None:
        raise UsageError(
            f"Expected a bundle's directory, got the file {path}. `isogon run` takes an "
            f"ONNX file alone."
        )
    return model


def manifest_of(model: Model) -> Manifest:
    """Return the manifest of a model that `opened_model` returned."""
    assert model.manifest is not None
    return model.manifest


def model_for_job(job: Job) -> Model:
    """Return the model that a job was begun with.

    Raises:
        UsageError: this machine has another bundle there, or another Isogon.
        BundleError, CheckFailedError: see `opened_model`.
    """
    here = isogon_version()
    if here != job.version:
        raise UsageError(
            f"The run was begun with Isogon {job.version}, but a worker has {here}. "
            f"Install the same version on every machine."
        )
    model = opened_model(job.bundle, job.artifact)
    if model.fingerprint != job.fingerprint:
        raise UsageError(
            f"The run was begun with {job.artifact} {job.fingerprint[:12]}…, but a "
            f"worker finds {model.fingerprint[:12]}… at {job.bundle}. Let every machine "
            f"see the same bundle under that path, and do not change it meanwhile."
        )
    return model
