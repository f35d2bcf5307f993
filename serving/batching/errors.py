"""Why a request got no answer; each concerns that request alone.

RefusedImageError   one of its images does not decode, or is past a limit
QueueFullError      too many images are waiting; nothing of it was decoded
DeadlineError       it took too long; what was left of it was dropped
ClosedError         the service is shutting down
NoMemoryError       the machine has no memory left for one of its images
RunError            the runtime failed on a batch that held an image of it
"""

from isogon.errors import ImageError


class RefusedImageError(Exception):
    """One image of a request is refused; no other request is affected."""

    def __init__(self, error: ImageError, index: int) -> None:
        super().__init__(f"images[{index}] {error}")
        self.problem = error.problem
        self.index = index


class QueueFullError(Exception):
    """The images do not fit into the queue.

    Args:
        retry_after: seconds until there should be room.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(Exception):
    """The request was not answered in time."""


class ClosedError(Exception):
    """The pipeline takes no more requests."""


class NoMemoryError(Exception):
    """The system refused memory for an image: others have it, or the limit is too near."""


class RunError(Exception):
    """The runtime failed on a batch; the log has its own error."""
