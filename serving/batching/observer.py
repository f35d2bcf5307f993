"""Observers of the pipeline: they are told of each step of the images."""

from abc import ABC, abstractmethod


class Trail(ABC):
    """Is told the steps of one request's images, with their times, for its trace."""

    @abstractmethod
    def step(self, name: str, start: float, end: float, images: int) -> None:
        """Take note of a step: queue, decode, batch or run.

        Args:
            name: of the step.
            start: when, by `time.perf_counter`.
            end: likewise.
            images: how many of the request took the step together.
        """


class Observer:
    """Is told every step, and does nothing; subclasses count what they need.

    The methods are called from several threads at once, while requests wait: they must be
    thread-safe and quick, and must not raise.
    """

    def trail(self) -> Trail | None:
        """Return what traces the current request; None if it is not traced."""
        return None

    def depth(self, images: int) -> None:
        """Take note of how many images are now admitted and do not run yet.

        Unlike the others, this is called once at a time and in the order of events.
        """

    def queued(self, seconds: float) -> None:
        """Take note of how long an image waited, from its admission to its decoding."""

    def decoded(self, seconds: float) -> None:
        """Take note of how long an image took to decode, or to fail."""

    def batched(self, seconds: float) -> None:
        """Take note of how long a decoded image waited for its run."""

    def ran(self, images: int, seconds: float) -> None:
        """Take note of how long the runtime took for a batch of so many images."""
