"""One request in the pipeline, the work on its images, and the errors it can end with.

RefusedImageError   an image does not decode, or exceeds a limit
QueueFullError      too many images are waiting; none of the request was decoded
DeadlineError       it took too long; the rest of it was dropped
ClosedError         the service is shutting down
NoMemoryError       the machine has no memory left for an image
RunError            the runtime failed on a batch with an image of the request
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from isogon.errors import ImageError
from isogon.runtimes import Outputs
from serving.batching.decoding_memory import Ticket
from serving.batching.observer import Trail


class RequestJob:
    """One request: its images, their outputs, and its error if it fails.

    All methods but `settle` are called under the schedule's lock.

    Args:
        images: encoded; at least one.
        deliver: is called with the outputs or the error, once, on any thread.
        trail: is told the steps of this request.
    """

    def __init__(
        self,
        images: list[bytes],
        deliver: Callable[[Outputs | Exception], None],
        trail: Trail | None = None,
    ) -> None:
        if not images:
            raise ValueError("A request needs at least one image, got none.")
        self.images = images
        self.trail = trail
        self.admitted = 0.0  # when it was admitted
        self.begun = 0  # how many images are, or were, in decoding: the first ones
        self.decoding = 0  # how many are in decoding now
        self.over = False  # answered, failed or dropped: no more work is done for it
        self._deliver = deliver
        self._answers: dict[int, tuple[np.ndarray, np.floating]] = {}
        self._error: tuple[int, Exception] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def answered(self) -> bool:
        """Whether every image has its outputs."""
        return len(self._answers) == len(self.images)

    @property
    def failed(self) -> bool:
        """Whether an image, and so the request, failed."""
        return self._error is not None

    def answer(self, index: int, embedding: np.ndarray, score: np.floating) -> None:
        """Keep an image's outputs."""
        self._answers[index] = (embedding, score)

    def fail(self, index: int, error: Exception) -> None:
        """Keep an image's error, unless an earlier image has one."""
        if self._error is None or index < self._error[0]:
            self._error = (index, error)

    def needs(self, index: int) -> bool:
        """Return whether the result of an image still matters."""
        return not self.over and (self._error is None or index < self._error[0])

    def settle(self) -> None:
        """Deliver the outputs in the order of the images, or the error."""
        if self._error is not None:
            self._deliver(self._error[1])
            return
        answers = [self._answers[index] for index in range(len(self.images))]
        self._deliver(
            Outputs(
                embeddings=np.stack([embedding for embedding, _ in answers]),
                ood_scores=np.array([score for _, score in answers], np.float32),
            )
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """One image to decode.

    Args:
        job: whose image it is.
        index: which one.
        ticket: of a large image that has room now; None: its size is not known yet.
    """

    job: RequestJob
    index: int
    ticket: Ticket | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """One image that is ready to run."""

    job: RequestJob
    index: int
    pixels: UInt8[np.ndarray, "h w 3"]
    since: float  # when it was decoded


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBatch:
    """Decoded images to run together, possibly of several requests."""

    images: tuple[Decoded, ...]


class RefusedImageError(Exception):
    """One image of a request is refused; other requests are not affected."""

    def __init__(self, error: ImageError, index: int) -> None:
        super().__init__(f"images[{index}] {error}")
        self.problem = error.problem
        self.index = index


class QueueFullError(Exception):
    """The request's images do not fit into the queue.

    Args:
        retry_after: seconds until there should be room.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(Exception):
    """The request was not answered in time."""


class ClosedError(Exception):
    """The pipeline accepts no more requests."""


class NoMemoryError(Exception):
    """The system refused memory for an image."""


class RunError(Exception):
    """The runtime failed on a batch; the log has the runtime's error."""
