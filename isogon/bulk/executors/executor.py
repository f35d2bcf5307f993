"""The interface of an executor, which runs the parts of a job."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence

from isogon.bulk.job import BulkJob

# The number of each finished part, and the content of its Parquet file.
Finished = Generator[tuple[int, bytes], None, None]


class Executor(ABC):
    """Runs the parts of a job with `embed_part`, in several processes or machines."""

    @abstractmethod
    def decoders(self, *, on_gpu: bool) -> int:
        """Return how many threads of a worker read and decode images."""

    @abstractmethod
    def run(self, job: BulkJob, parts: Sequence[int]) -> Finished:
        """Run these parts; yield each as soon as it is finished.

        Closing the generator stops the workers.

        Raises:
            IsogonError: a worker cannot do its part, or has died.
        """
