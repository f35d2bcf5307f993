"""The job that every worker gets, the record of a run, and the marks of its files.

A mark recognises a file on another machine. It is a digest of the file's size and content:
the whole content up to 64 KiB, else 16 blocks spread evenly over it. Modification times do
not count, because copies have other ones.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from isogon.errors import UsageError
from isogon.images import Images
from isogon.images.readable_cache import revision
from isogon.model import Model

_SMALLEST, _LARGEST = 64, 2048  # images in a part
_PARTS = 256  # the number of parts aimed at, within these bounds
_FREE = {"part"}  # a continued run keeps the part size of the first run
_BLOCK, _BLOCKS = 4096, 16
_READERS = 16  # threads: a file server has a long latency but a high throughput
Marks = tuple[int, ...]  # one per image; 0: nothing to compare


@dataclass(frozen=True, kw_only=True)
class BulkJob:
    """Which images to embed, with which artifact, in which batches and parts.

    Batches begin at multiples of `batch`. Parts begin at multiples of `part`, a multiple
    of `batch`. So an image's batch does not depend on how the work is divided.
    """

    bundle: Path  # absolute path, the same for every worker
    artifact: str
    fingerprint: str  # of the artifact; a worker with another one refuses the job
    version: str  # of Isogon; likewise
    images: Images
    batch: int  # images per run of the model
    part: int  # images per part
    decoders: int  # threads of a worker that read and decode

    @cached_property
    def parts(self) -> range:
        """The numbers of all parts."""
        return range(-(-len(self.images) // self.part))

    def indices(self, part: int) -> range:
        """Return the indices of the images of a part."""
        return range(part * self.part, min((part + 1) * self.part, len(self.images)))


def part_size(images: int, batch: int) -> int:
    """Return the number of images per part: whole batches, a few seconds of work."""
    wanted = min(max(_SMALLEST, images // _PARTS), _LARGEST)
    return -(-wanted // batch) * batch


def isogon_version() -> str:
    """Return the version of Isogon that is installed here."""
    return version("isogon")


class RunRecord(BaseModel):
    """Everything that the rows of the output depend on, kept beside unfinished parts."""

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
    def of(cls, job: BulkJob, model: Model) -> "RunRecord":
        """Return the record of a job that is about to start or continue."""
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
        """Return how another run differs, in words."""
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


def marks_of(images: Images, indices: Sequence[int]) -> Marks:
    """Return the marks of the files that hold these images, on this machine."""

    def mark(path: Path) -> int:
        try:
            return _mark(path)
        except OSError:  # unreadable here, so any file of a worker is accepted
            return 0

    paths = [images.file(index) for index in indices]
    files = list({path for path in paths if path is not None})  # an archive has many images
    with ThreadPoolExecutor(_READERS) as pool:
        marks = dict(zip(files, pool.map(mark, files), strict=True))
    return tuple(0 if path is None else marks[path] for path in paths)


def require_marked(images: Images, indices: Sequence[int], marks: Marks) -> None:
    """Refuse files that differ from those on the machine that began the job.

    Raises:
        UsageError: one cannot be read, or has another size or content.
    """
    paths = map(images.file, indices)
    for path, expected in dict(zip(paths, marks, strict=True)).items():
        if path is None or not expected:
            continue
        try:
            found = _mark(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be read there: {error}") from error
        if found != expected:
            raise UsageError(f"{path} has another size or content there")


def _mark(path: Path) -> int:
    """Return the mark of a file, never 0.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    digest = hashlib.blake2b(size.to_bytes(8), digest_size=8)
    with path.open("rb", buffering=0) as file:
        if size <= _BLOCK * _BLOCKS:
            digest.update(file.read())
        else:
            for number in range(_BLOCKS):
                file.seek((size - _BLOCK) * number // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return int.from_bytes(digest.digest()) | 1


def _digest(images: Images) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update((revision(images.names, images.files()) or "").encode())
    if images.classes:
        for number in images.class_numbers:
            digest.update(f"{images.classes[number]}\0".encode())
    return digest.hexdigest()
