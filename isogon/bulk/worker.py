"""What a worker does, in any process, on any machine: open the model, embed a part."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from isogon.bulk.job import BulkJob, isogon_version
from isogon.bulk.parts import PartTable
from isogon.bundle import Manifest
from isogon.errors import UsageError
from isogon.model import Answers, Model

_AHEAD = 2  # batches decoded while one runs
_Read = UInt8[np.ndarray, "h w 3"] | str  # pixels, or why there are none


def model_for_job(job: BulkJob) -> Model:
    """Return the model of a job, opened on this machine.

    Raises:
        UsageError: this machine has another bundle at that path, or another Isogon.
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
            f"worker finds {model.fingerprint[:12]}… at {job.bundle}. Give every machine "
            f"the same bundle at that path, and do not change it during the run."
        )
    return model


def opened_model(path: Path, artifact: str) -> Model:
    """Return a bundle's model, on one CPU thread, because workers share the cores.

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


def embed_part(model: Model, job: BulkJob, number: int) -> PartTable:
    """Embed the images of one part; unreadable images are listed with the reason.

    Threads decode the next batches while the model runs one.
    """
    preprocessing = model.preprocessing

    def read(index: int) -> _Read:
        try:
            return preprocessing.pixels(job.images.image(index))
        except UsageError as error:
            return str(error)

    indices = job.indices(number)
    seen: list[int] = []
    answers: list[Answers] = []
    unreadable: dict[int, str] = {}
    with ThreadPoolExecutor(job.decoders) as pool:
        found = _ahead(pool, read, indices, _AHEAD * job.batch)
        for start in range(0, len(indices), job.batch):
            batch: list[UInt8[np.ndarray, "h w 3"]] = []
            for index in indices[start : start + job.batch]:
                one = next(found)
                if isinstance(one, str):
                    unreadable[index] = one
                else:
                    batch.append(one)
                    seen.append(index)
            if batch:
                answers.append(model.of_pixels(np.stack(batch)))
    width = manifest_of(model).width
    return PartTable.of(job.images, seen, answers, unreadable, width=width)


def _ahead(
    pool: ThreadPoolExecutor,
    read: Callable[[int], _Read],
    indices: Sequence[int],
    ahead: int,
) -> Iterator[_Read]:
    """Yield what `read` returns for each index, in order, reading at most `ahead` ahead."""
    waiting: deque[Future[_Read]] = deque()
    for index in indices:
        waiting.append(pool.submit(read, index))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
