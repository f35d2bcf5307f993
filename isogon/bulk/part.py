"""One part of the work, whichever process or machine does it."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8

from isogon.bulk.job import Job
from isogon.bulk.model import manifest_of
from isogon.bulk.table import PartTable
from isogon.errors import UsageError
from isogon.model import Answers, Model

_AHEAD = 2  # batches that are decoded while one is run

_Read = UInt8[np.ndarray, "h w 3"] | str  # pixels, or why there are none


def embed_part(model: Model, job: Job, number: int) -> PartTable:
    """Embed the images of one part; unreadable images are listed, and stop nothing.

    The next batches are decoded while one is run.
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
    return PartTable.of(
        job.images,
        seen,
        answers,
        unreadable,
        width=manifest_of(model).width,
    )


def _ahead(
    pool: ThreadPoolExecutor,
    read: Callable[[int], _Read],
    indices: Sequence[int],
    ahead: int,
) -> Iterator[_Read]:
    """Yield what `read` returns for each index, in order, a bounded number ahead."""
    waiting: deque[Future[_Read]] = deque()
    for index in indices:
        waiting.append(pool.submit(read, index))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
