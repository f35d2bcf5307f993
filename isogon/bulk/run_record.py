"""The inputs of a run, kept so that it can only be continued with the same ones."""

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from isogon.bulk.job import Job
from isogon.images import Images
from isogon.images.examined import revision
from isogon.model import Model

_FREE = {"part"}  # a continued run takes what it finds


class RunRecord(BaseModel):
    """Everything that the rows of the output depend on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    artifact: str
    fingerprint: str
    alpha: float
    runner: str  # runtime, version and device
    version: str  # of Isogon
    source: str  # digest of names, classes, sizes and times of change
    images: int
    batch: int
    part: int

    @classmethod
    def of(cls, job: Job, model: Model) -> "RunRecord":
        """Return the record of a job about to be begun, or continued."""
        return cls(
            artifact=job.artifact,
            fingerprint=job.fingerprint,
            alpha=model.calibration.alpha,
            runner=model.name,
            version=job.version,
            source=_digest(job.images),
            images=len(job.images),
            batch=job.batch,
            part=job.part,
        )

    @classmethod
    def load(cls, path: Path) -> "RunRecord | None":
        """Read a record; None if the file is not a record of this version."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError:
            return None

    def differences(self, other: "RunRecord") -> list[str]:
        """Return what another run does otherwise, in words."""
        found = []
        for field in type(self).model_fields:
            ours, theirs = getattr(self, field), getattr(other, field)
            if field in _FREE or ours == theirs:
                continue
            if field == "source":
                found.append("the images have other names, classes, sizes or dates")
            else:
                found.append(f"{field} was {ours}, now it is {theirs}")
        return found


def _digest(images: Images) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update((revision(images.names, images.files()) or "").encode())
    if images.classes:
        for number in images.class_numbers:
            digest.update(f"{images.classes[number]}\0".encode())
    return digest.hexdigest()
