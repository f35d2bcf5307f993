"""Who hears of what happens to images on their way."""

from abc import ABC, abstractmethod


class Trail(ABC):
    """Hears of the steps of one request's images, with their times, for its trace."""

    @abstractmethod
    def step(self, name: str, start: float, end: float, images: int) -> None:
        """Hear of a step: queue, decode, batch or run.

        Args:
            name: of the step.
            start: when, by `time.perf_counter`.
            end: likewise.
            images: of the request that took it together.
        """


class Observer:
    """Hears of every step and does nothing; a subclass counts what it cares for.

    The methods are called from several threads at once and in the way of requests:
    they must be safe, quick, and raise nothing.
    """

    def trail(self) -> Trail | None:
        """Return who traces the request that the caller serves; mostly nobody."""
        return None

    def depth(self, images: int) -> None:
        """Hear how many images are now admitted and do not yet run.

        One call at a time and in the order of events, unlike the others.
        """

    def queued(self, seconds: float) -> None:
        """Hear how long an image waited, from its admission to its decoding."""

    def decoded(self, seconds: float) -> None:
        """Hear how long an image took to decode, or to be found undecodable."""

    def batched(self, seconds: float) -> None:
        """Hear how long a decoded image waited for its run."""

    def ran(self, images: int, seconds: float) -> None:
        """Hear how long the runtime took for a batch of so many images."""
