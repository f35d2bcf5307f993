"""The interface of an engine, which does the parts of a job."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence

from isogon.bulk.job import Job

# Parts by number, each as a Parquet file's content.
Finished = Generator[tuple[int, bytes], None, None]


class Engine(ABC):
    """Does the parts of a job, by `embed_part`, on some processes or machines."""

    @abstractmethod
    def decoders(self, *, on_gpu: bool) -> int:
        """Return how many threads of a worker read and decode images."""

    @abstractmethod
    def run(self, job: Job, parts: Sequence[int]) -> Finished:
        """Do these parts; yield each as soon as it is finished.

        Whatever is still at work when the generator is closed is stopped.

        Raises:
            IsogonError: a worker cannot do its part, or has died.
        """
